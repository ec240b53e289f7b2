# SPDX-License-Identifier: Apache-2.0
"""The start of a run's guests, up to their collected tests: by a boot, or from a saved state.

States are by-products of runs. A guest that boots is saved while its agent is parked, and again
once its tests are collected; a guest from a booted state takes the sources that changed since, and
is saved once its tests are collected. Of several guests the first is saved, and all are restored
from the same state.

A guest that is saved gives its PCI functions up first, because a state has nothing of a device
that is outside QEMU, and finds them again when it goes on. ``guest/agent/main.py`` describes the
messages. Where nothing is saved, a guest that boots keeps its functions all the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.build_cache import Kind
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process.errors import HarnessError, NoVerdict
from dma_rehearsal.host_harness.session import agent_client
from dma_rehearsal.host_harness.session.agent_client import Collected, Request
from dma_rehearsal.host_harness.session.guest_states import Plan, Start, StartKind

# A restored guest answers in half a second. One that does not is given up for a boot.
_RESTORED_S = 20.0
_ENTROPY_SIZE = 32  # bytes
NOT_SAVED = "not-saved"
"""The file of a run's folder that says why its guest was not saved."""


class Guests:
    """The guests of a run, from the start of their VMs to their collected tests.

    ``start`` is how they started; `begin` and `collect` may change it.
    """

    def __init__(self, vms: Sequence[Vm], plan: Plan) -> None:
        self.start = plan.start
        self._vms = vms
        self._plan = plan
        self._resumed = False
        self._attached = [plan.state is None] * len(vms)
        self._functions: object = None  # of the first VM, when it resumed last
        self._found: Collected | None = None  # the tests of a session that is open

    def begin(self) -> None:
        """Bring the guests to their agents' hello, or to their collected tests.

        StateUnusable when a guest does not come up from its saved state. NoVerdict when one is
        lost that boots, or that has resumed.
        """
        if self._plan.state is None:
            self._boot()
        else:
            self._restore(self._plan.state)

    def collect(self, request: Request) -> Collected:
        """Return the tests of ``request``: those of the state, or what the guests now collect.

        Errors as `agent_client.collect`'s.
        """
        planned = request == self._plan.request
        if self._found and planned:
            return self._found
        if self._found:
            self._end_session("the tests were collected for another request")
        looked = not self._plan.collects_detached
        saves = planned and self._plan.collected is not None
        before = self._vms[0].accesses() if saves and looked else 0
        found = agent_client.collect(self._vms, request, self._plan.seed)
        if saves and looked and self._vms[0].accesses() != before:
            self._say_not_saved("the device was used while the tests were collected")
        elif saves and self._plan.collected is not None:
            facts = {
                "hello": self._vms[0].hello,
                "collected": found.message,
                "functions": self._functions if looked else None,
            }
            self._save(build_cache.COLLECTED, self._plan.collected, facts)
        self._attach()
        return found

    def _boot(self) -> None:
        for vm in self._vms:
            vm.await_parked()
        if self._plan.booted and self._plan.payload:
            facts = {"files": self._plan.payload.listing()}
            self._save(build_cache.BOOTED, self._plan.booted, facts)
        self._resume(attach=not self._plan.collects_detached)
        self._go()

    def _restore(self, state: Path) -> None:
        facts = self._plan.facts
        known: Collected | None = None
        try:
            if self.start.kind is StartKind.COLLECTED:
                known = self._known(facts)
            else:
                self._give_files()
            attach = known is not None or not self._plan.collects_detached
            self._resume(attach=attach, limit_s=_RESTORED_S)
        except NoVerdict as error:
            if any(vm.device.poll() is not None for vm in self._vms):
                raise  # the state has nothing of the device process
            raise StateUnusable(str(error)) from error
        if known is None:
            self._go()
            return
        for vm in self._vms:
            vm.hello = facts["hello"]
        self._found = known
        if facts["functions"] not in (None, self._functions):
            build_cache.discard(state)
            self._end_session("the device has other functions than when the tests were collected")

    def _known(self, facts: Mapping[str, Any]) -> Collected:
        """Return the tests that a state has collected, checked as if a guest had just sent them."""
        if self._plan.request is None:
            raise RuntimeError("a run that collects nothing has a state with collected tests")
        try:
            return agent_client.checked(self._vms[0], self._plan.request, facts["collected"])
        except HarnessError as error:
            raise StateUnusable(f"its collected tests: {error}") from error

    def _end_session(self, reason: str) -> None:
        """End the session of the saved state, because its tests must be collected again."""
        for vm in self._vms:
            vm.end_session(0)
        self._found = None
        self.start = Start(StartKind.BOOTED, reason)

    def _save(self, kind: Kind, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Save the first guest, if the cache takes it now and the guest gives its functions up."""
        vm = self._vms[0]

        def build(staging: Path) -> dict[str, Any]:
            if self._attached[0]:
                if refused := vm.detach():
                    raise StateUnusable(f"the guest does not give its devices up: {refused}")
                self._attached[0] = False
            return saved_state.save(vm, staging, facts)

        with vm.progress.phase("save", silent=True):
            try:
                build_cache.offer(kind, dict(key), build)
            except StateUnusable as error:
                self._say_not_saved(str(error))

    def _say_not_saved(self, reason: str) -> None:
        (self._vms[0].folder / NOT_SAVED).write_text(f"{reason}\n")

    def _resume(self, *, attach: bool, limit_s: float | None = None) -> None:
        """Have each guest go on: the first time with the parameters and shells of the run.

        A restored one also gets what it cannot have from a state: the seed, the time, randomness.
        """
        restored = self._plan.state is not None and not self._resumed
        asked = [
            number
            for number in range(len(self._vms))
            if not self._resumed or (attach and not self._attached[number])
        ]
        for number in asked:
            vm = self._vms[number]
            message: Message = {
                "type": "resume",
                "parameters": list(vm.parameters),
                "shells": 0 if self._resumed else vm.shells,
                "attach": attach and not self._attached[number],
            }
            if restored:
                entropy = os.urandom(_ENTROPY_SIZE).hex()
                message |= {"seed": self._plan.seed, "clock": time.time(), "entropy": entropy}
            vm.send("guest ready", message)
        for number in asked:
            answer = self._vms[number].receive("guest ready", "resumed", limit_s=limit_s)
            self._attached[number] |= attach
            if number == 0:
                self._functions = answer.get("functions")
        self._resumed = True

    def _attach(self) -> None:
        if not all(self._attached):
            self._resume(attach=True)

    def _go(self) -> None:
        for vm in self._vms:
            vm.send("guest ready", {"type": "go"})
        for vm in self._vms:
            vm.await_hello()

    def _give_files(self) -> None:
        """Give the guests the sources that changed since their state was saved."""
        for message in self._plan.files:
            for vm in self._vms:
                vm.send("guest ready", message)
            for vm in self._vms:
                filed = vm.receive("guest ready", "filed", limit_s=_RESTORED_S)
                if error := filed.get("error"):
                    raise StateUnusable(f"the guest cannot store a file: {error}")
