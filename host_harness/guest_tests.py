"""The conversation with a guest about its tests: which there are, and the reports of one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from . import dmar, guest_words, host_witness
from .errors import NoVerdict, UsageError
from .guest_words import CollectedItem, GuestWordsError
from .payload import GuestTests
from .vm import Vm


@dataclass(frozen=True, slots=True)
class Collected:
    """The guest's tests; others are for another machine: ``left_out`` counts them by reason."""

    items: list[CollectedItem]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reports of one test, all of them, and whether it had the host look at its tables."""

    reports: list[pytest.TestReport]
    witnessed: bool


def collect(vm: Vm, tests: GuestTests, *args: str, **settings: Any) -> Collected:
    """Begin a session of the guest's pytest on ``tests``, which `Vm.end_session` ends.

    ``args`` go to that pytest, ``settings`` to the guest's agent. UsageError for arguments that it
    refuses; NoVerdict when it cannot collect.
    """
    request = {
        "args": [*args, *tests.selected],
        "named": bool(tests.selected),
        "root": tests.root_in_guest,
    }
    vm.send("collection", {"type": "configure", **request, **settings})
    collected = vm.receive("collection", "collected", "unusable")
    if collected["type"] == "unusable":
        raise UsageError(
            f"the guest's pytest: {collected.get('text')}",
            f"name files, folders or node ids below {tests.root}",
        )
    try:
        if errors := guest_words.collection_errors(collected):
            raise NoVerdict("collection", f"the guest cannot collect its tests:\n{errors}")
        return Collected(guest_words.collected_items(collected), guest_words.left_out(collected))
    except GuestWordsError as error:
        raise vm.lost("collection", str(error)) from error


def run(vm: Vm, config: pytest.Config, nodeid: str, following: str | None) -> Outcome:
    """Run one test of the session, of which ``following`` is the next, as often as one likes.

    NoVerdict when reports are missing, the VM is lost, or the deadline of a test passes.
    """
    end = time.monotonic() + vm.deadlines["test"]
    vm.send("test", {"type": "run", "nodeid": nodeid, "next": following})
    reports: list[pytest.TestReport] = []
    witnessed = False
    kinds: tuple[str, ...] = ("start",)
    try:
        while True:
            message = vm.receive("test", *kinds, limit_s=end - time.monotonic())
            if message.get("nodeid") != nodeid:
                raise GuestWordsError(f"the guest is at {message.get('nodeid')!r:.100}")
            if message["type"] == "finish":
                guest_words.check_order(reports)
                return Outcome(reports, witnessed)
            if message["type"] == "witness":
                host_witness.answer(vm, message, end - time.monotonic())
                witnessed = True
            if message["type"] == "report":
                reports.append(guest_words.report(config, message.get("data"), nodeid))
                dmar.expected(reports[-1].user_properties)
                if len(reports) > len(guest_words.PHASES):
                    raise GuestWordsError("the guest sends reports without end")
            kinds = ("witness", "report", "finish")
    except GuestWordsError as error:
        raise vm.lost("test", str(error)) from error
