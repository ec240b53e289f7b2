# SPDX-License-Identifier: Apache-2.0
"""The client of the guest's agent: collects its tests, and runs one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine import endpoint_slots
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError
from dma_rehearsal.host_harness.session import guest_protocol
from dma_rehearsal.host_harness.session.guest_protocol import CollectedItem, Warned
from dma_rehearsal.host_harness.verdict import dmar, host_view
from dma_rehearsal.host_harness.witness import host_witness
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters

OBJECTIONS_MAX = 20
"""The objections that are kept of one witness's walks in one test."""


@dataclass(frozen=True, slots=True)
class Request:
    """The request to collect tests: equal requests to equal guests find the same tests.

    ``arguments`` go to the guest's pytest, besides those that select ``tests``. ``fault`` names a
    fault of the guest's side, ``limit_s`` is a test's deadline in seconds (0: none), ``place`` the
    policy that places buffers, ``rehearse`` whether tests of a
    driver run under every condition. The seed is not part of it: what is collected does not depend
    on it.
    """

    tests: GuestTests
    arguments: tuple[str, ...] = ()
    fault: str | None = None
    iommu: bool = False
    limit_s: float = 0.0
    place: str | None = None
    rehearse: bool = False

    @classmethod
    def of(
        cls, options: Options, tests: GuestTests, place: str, arguments: Sequence[str] = ()
    ) -> Request:
        """Return the request of a run with these options."""
        fault = options.fault
        return cls(
            tests,
            tuple(arguments),
            fault=fault.name if fault and fault.component.in_guest else None,
            iommu=options.iommu,
            limit_s=0 if math.isinf(limit := options.deadlines["test"]) else limit,
            place=place,
            rehearse=options.rehearse,
        )

    def settings(self) -> dict[str, Any]:
        """Return the request as the guest's agent reads it, without the seed."""
        return {
            "args": [*self.arguments, *self.tests.arguments],
            "named": bool(self.tests.arguments),
            "root": self.tests.root_in_guest,
            "own": self.tests.is_own,
            "fault": self.fault,
            "iommu": self.iommu,
            "limit": self.limit_s,
            "place": self.place,
            "rehearse": self.rehearse,
        }

    def message(self, seed: int) -> Message:
        """Return the message that begins a session with ``seed``."""
        return {"type": "configure", **self.settings(), "seed": seed}


@dataclass(frozen=True, slots=True)
class Collected:
    """The guest's tests; others are for another machine: ``left_out`` counts them by reason.

    ``message`` is the guest's answer, from which `checked` makes the same again.
    """

    items: list[CollectedItem]
    left_out: dict[str, int]
    warnings: list[Warned] = field(default_factory=list, compare=False)
    message: Message = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All reports of one test, its warnings, and whether the host was asked to walk its tables.

    ``objections`` are those of the host's walks.
    """

    reports: list[pytest.TestReport]
    witnessed: bool
    warnings: Sequence[Warned] = ()
    objections: Sequence[str] = ()


def collect(vms: Sequence[Vm], request: Request, seed: int) -> Collected:
    """Begin a session of each guest's pytest, which `Vm.end_session` ends.

    UsageError for arguments that this pytest refuses; NoVerdict when it cannot collect, or two
    guests do not have the same tests.
    """
    for vm in vms:
        vm.send("collection", request.message(seed))
    messages = [vm.receive("collection", "collected", "unusable") for vm in vms]
    first, *others = (
        checked(vm, request, message) for vm, message in zip(vms, messages, strict=True)
    )
    if any(other != first for other in others):
        raise NoVerdict(
            "collection",
            "the guests do not collect the same tests in the same order",
            "look for changing parameters of tests: time, random numbers, sets; or use VMS=1",
        )
    return first


def checked(vm: Vm, request: Request, message: Message) -> Collected:
    """Return the tests of the guest's answer, "collected" or "unusable"; errors as `collect`'s."""
    if message["type"] == "unusable":
        raise UsageError(
            f"the guest's pytest: {message.get('text')}",
            f"name files, folders or node ids below {request.tests.root}",
        )
    try:
        if errors := guest_protocol.collection_errors(message):
            raise NoVerdict("collection", f"the guest cannot collect its tests:\n{errors}")
        if lost := guest_protocol.dropped(message):
            raise NoVerdict(
                "collection",
                f"a hook in the guest dropped tests silently: {', '.join(lost)}",
                "call config.hook.pytest_deselected for the tests that a hook leaves out",
            )
        items = guest_protocol.collected_items(message)
        guest_protocol.check_count(message, items)
        return Collected(
            items, guest_protocol.left_out(message), guest_protocol.warned(message), message
        )
    except GuestProtocolError as error:
        raise vm.lost("collection", str(error)) from error


class Running:
    """One test that the guest runs from now on, of which ``following`` is the next.

    All methods raise NoVerdict when reports are missing, the VM is lost, the device did not answer,
    or the deadline of a test passes.
    """

    def __init__(
        self,
        vm: Vm,
        config: pytest.Config,
        nodeid: str,
        following: str | None,
        registers: SavedRegisters,
    ) -> None:
        self.nodeid = nodeid
        self._vm = vm
        self._registers = registers
        self._objections: list[str] = []
        self._config = config
        self._end = time.monotonic() + vm.deadlines["test"]
        self._reports: list[pytest.TestReport] = []
        self._witnessed = False
        self._kinds: tuple[str, ...] = ("start",)
        vm.subject = nodeid
        vm.send("test", {"type": "run", "nodeid": nodeid, "next": following})

    @property
    def remaining_s(self) -> float:
        """The seconds until the deadline."""
        return self._end - time.monotonic()

    def wait(self) -> Outcome:
        """Wait for the outcome, and return it."""
        while True:
            message = self._vm.receive("test", *self._kinds, limit_s=self.remaining_s)
            if outcome := self._hear(message):
                return outcome

    def look(self) -> Outcome | None:
        """Return the outcome if `Vm.poll` has brought all of it; never wait for it."""
        if self.remaining_s <= 0:
            self._vm.poll("test", 0)  # it may have arrived in time, unseen
        while message := self._vm.take("test", *self._kinds):
            if outcome := self._hear(message):
                return outcome
        return self.wait() if self.remaining_s <= 0 else None

    def _hear(self, message: Message) -> Outcome | None:
        try:
            return self._heard(message)
        except GuestProtocolError as error:
            raise self._vm.lost("test", str(error)) from error

    def _heard(self, message: Message) -> Outcome | None:
        if message.get("nodeid") != self.nodeid:
            raise GuestProtocolError(f"the guest is at {message.get('nodeid')!r:.100}")
        if message["type"] == "finish":
            guest_protocol.check_order(self._reports)
            self._vm.check_answers("test")
            self._vm.subject = ""
            warnings = guest_protocol.warned(message)
            # The last one has the properties of all phases.
            host_view.check(self._reports[-1].user_properties)
            return Outcome(self._reports, self._witnessed, warnings, self._objections)
        if message["type"] == "witness":
            wrong = host_witness.answer(self._vm, message, self.remaining_s, self._registers)
            self._objections = [*self._objections, *wrong][:OBJECTIONS_MAX]
            self._witnessed = True
        if message["type"] == "slot":
            endpoint_slots.answer(self._vm, message, self.remaining_s)
        if message["type"] == "report":
            found = guest_protocol.report(self._config, message.get("data"), self.nodeid)
            self._reports.append(found)
            dmar.expected(found.user_properties)
            if len(self._reports) > guest_protocol.REPORTS_MAX:
                raise GuestProtocolError("the guest sends reports without end")
        self._kinds = ("witness", "slot", "report", "finish")
        return None
