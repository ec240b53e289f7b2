# SPDX-License-Identifier: Apache-2.0
"""The messages by which guests start: each way, for one guest and for two, and what goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.build_cache import Kind
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_start import NOT_SAVED, Guests
from dma_rehearsal.host_harness.session.guest_states import Plan, Start, StartKind

OWN = Request(GuestTests(), iommu=False)
USERS = Request(GuestTests(Path("/a/project"), ("tests",)))
KEY = {"a": "key"}
FUNCTIONS = [{"address": "0000:00:04.0"}]
COLLECTED: Message = {
    "type": "collected",
    "items": [
        {
            "nodeid": "suite/test_a.py::test_one",
            "path": "suite/test_a.py",
            "lineno": 3,
            "name": "test_one",
            "keywords": [],
            "marks": [],
            "promises": [],
        }
    ],
    "count": 1,
    "dropped": [],
    "errors": [],
    "left_out": {},
    "warnings": [],
}
HELLO: Message = {"type": "hello", "protocol": 4, "kernel": "6.1"}


class FakeVm:
    """A guest that answers each message as a good one does, or as ``answers`` say."""

    def __init__(self, name: str, folder: Path, happened: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.happened = happened
        self.progress = Progress(quiet=True)
        self.parameters = ("rehearsal.coherent=1",)
        self.shells = 0
        self.hello: Message = {}
        self.device = SimpleNamespace(poll=lambda: None)
        self.answers: dict[str, Message] = {}
        self.lost_at = ""
        self.refused = ""
        self.sent: list[Message] = []
        self.limits: list[float | None] = []
        self.accessed = 0  # times in a collection

    def say(self, text: str) -> None:
        self.happened.append(f"{self.name}: {text}")

    def await_parked(self) -> None:
        self.say("parked")

    def await_hello(self) -> None:
        self.hello = HELLO
        self.say("hello")

    def end_session(self, ran: int) -> None:
        self.say(f"session of {ran} ends")

    def accesses(self) -> int:
        return 100 + self.accessed * len(self.of("configure"))

    def detach(self) -> str:
        self.say("detach")
        return self.refused

    def lost(self, phase: str, message: str) -> NoVerdict:
        return NoVerdict(phase, message)

    def send(self, _phase: str, message: Message) -> None:
        self.sent.append(message)
        self.say(message["type"] + (", attach" if message.get("attach") else ""))

    def receive(self, phase: str, *kinds: str, limit_s: float | None = None) -> Message:
        self.limits.append(limit_s)
        if self.lost_at in kinds:
            raise NoVerdict(phase, f"no {self.lost_at}")
        usual = {
            "collected": COLLECTED,
            "resumed": {"type": "resumed", "functions": FUNCTIONS},
        }
        kind = kinds[0]
        return self.answers.get(kind, usual.get(kind, {"type": kind}))

    def of(self, kind: str) -> list[Message]:
        """Return the messages of this kind that were sent."""
        return [message for message in self.sent if message["type"] == kind]


class Stage:
    """Two guests, and a cache that takes what it is offered."""

    def __init__(self, folder: Path) -> None:
        self.happened: list[str] = []
        self.vms = [FakeVm(name, folder, self.happened) for name in ("a", "b")]
        self.saved: dict[str, Mapping[str, Any]] = {}
        self.busy = False
        self.discarded: list[Path] = []
        self.save_fails = ""

    def offer(self, kind: Kind, _key: object, build: Callable[[Path], object]) -> Path | None:
        if self.busy:
            return None
        self._kind = kind.name
        build(Path("/staging"))
        return Path("/cache", kind.name)

    def save(self, vm: FakeVm, _folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        if self.save_fails:
            raise StateUnusable(self.save_fails)
        vm.say(f"saved {self._kind}")
        self.saved[self._kind] = facts
        return {}

    def discard(self, path: Path) -> bool:
        self.discarded.append(path)
        return True

    def guests(self, plan: Plan, count: int = 1) -> Guests:
        return Guests(self.vms[:count], plan)  # type: ignore[arg-type]

    def take(self) -> list[str]:
        """Return what happened since the last call."""
        taken = list(self.happened)
        self.happened.clear()
        return taken


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    found = Stage(tmp_path)
    monkeypatch.setattr(build_cache, "offer", found.offer)
    monkeypatch.setattr(build_cache, "discard", found.discard)
    monkeypatch.setattr(saved_state, "save", found.save)
    return found


def cold(request: Request | None = OWN, **changes: Any) -> Plan:
    archive: Any = SimpleNamespace(listing=lambda: {"a.py": "1"})
    return Plan(Start(StartKind.COLD), 7, request, archive, **changes)


def booted(request: Request | None = OWN, **changes: Any) -> Plan:
    return Plan(Start(StartKind.BOOTED), 7, request, state=Path("/state"), **changes)


def collected(request: Request = OWN, functions: object = None, **changes: Any) -> Plan:
    facts = {"hello": HELLO, "collected": COLLECTED, "functions": functions}
    changes.setdefault("collected", KEY)
    return Plan(
        Start(StartKind.COLLECTED), 7, request, state=Path("/state"), facts=facts, **changes
    )


def test_guest_that_is_not_saved_keeps_its_devices(stage: Stage) -> None:
    guests = stage.guests(cold())
    guests.begin()
    assert stage.take() == ["a: parked", "a: resume", "a: go", "a: hello"]
    assert [item.name for item in guests.collect(OWN).items] == ["test_one"]
    assert stage.take() == ["a: configure"]
    (resume,) = stage.vms[0].of("resume")
    assert resume == {
        "type": "resume",
        "parameters": ["rehearsal.coherent=1"],
        "shells": 0,
        "attach": False,
    }
    assert guests.start.kind is StartKind.COLD


def test_boot_is_saved_parked_and_with_its_tests_collected(stage: Stage) -> None:
    guests = stage.guests(cold(booted=KEY, collected=KEY))
    guests.begin()
    guests.collect(OWN)
    assert stage.take() == [
        *("a: parked", "a: detach", "a: saved booted", "a: resume", "a: go", "a: hello"),
        *("a: configure", "a: saved collected", "a: resume, attach"),
    ]
    assert stage.saved["booted"] == {"files": {"a.py": "1"}}
    assert stage.saved["collected"] == {
        "hello": HELLO,
        "collected": COLLECTED,
        "functions": None,
    }


def test_users_tests_are_collected_with_devices_where_a_scan_puts_them(stage: Stage) -> None:
    guests = stage.guests(cold(USERS, booted=KEY, collected=KEY))
    guests.begin()
    guests.collect(USERS)
    assert stage.take() == [
        *("a: parked", "a: detach", "a: saved booted", "a: resume, attach", "a: go", "a: hello"),
        *("a: configure", "a: detach", "a: saved collected", "a: resume, attach"),
    ]
    assert stage.saved["collected"]["functions"] == FUNCTIONS


def test_tests_that_use_the_device_while_they_are_collected_are_not_saved(stage: Stage) -> None:
    stage.vms[0].accessed = 1
    guests = stage.guests(cold(USERS, booted=KEY, collected=KEY))
    guests.begin()
    guests.collect(USERS)
    assert list(stage.saved) == ["booted"]
    assert stage.take()[-3:] == ["a: go", "a: hello", "a: configure"]
    assert "used while" in (stage.vms[0].folder / NOT_SAVED).read_text()


def test_of_two_guests_the_first_is_saved(stage: Stage) -> None:
    guests = stage.guests(cold(booted=KEY, collected=KEY), 2)
    guests.begin()
    guests.collect(OWN)
    assert stage.take() == [
        *("a: parked", "b: parked", "a: detach", "a: saved booted"),
        *("a: resume", "b: resume", "a: go", "b: go", "a: hello", "b: hello"),
        *("a: configure", "b: configure", "a: saved collected", "a: resume, attach"),
    ]


def test_booted_guests_take_the_sources_that_changed(stage: Stage) -> None:
    files: list[Message] = [{"type": "files", "remove": ["x"], "files": []}]
    guests = stage.guests(booted(files=files, collected=KEY), 2)
    guests.begin()
    assert stage.take() == [
        *("a: files", "b: files", "a: resume", "b: resume", "a: go", "b: go"),
        *("a: hello", "b: hello"),
    ]
    guests.collect(OWN)
    assert stage.take() == [
        *("a: configure", "b: configure", "a: saved collected"),
        *("a: resume, attach", "b: resume, attach"),
    ]


def test_booted_guest_without_a_collection_is_attached_at_once(stage: Stage) -> None:
    stage.guests(booted(None)).begin()
    assert stage.take() == ["a: resume, attach", "a: go", "a: hello"]


def test_collected_guests_go_on_with_their_tests(stage: Stage) -> None:
    guests = stage.guests(collected(), 2)
    guests.begin()
    assert stage.take() == ["a: resume, attach", "b: resume, attach"]
    assert [item.name for item in guests.collect(OWN).items] == ["test_one"]
    assert stage.take() == []
    assert [vm.hello for vm in stage.vms] == [HELLO, HELLO]
    assert guests.start.kind is StartKind.COLLECTED


def test_each_restored_guest_has_the_seed_the_time_and_randomness_of_its_own(stage: Stage) -> None:
    stage.guests(collected(), 2).begin()
    first, second = (vm.of("resume")[0] for vm in stage.vms)
    assert first["seed"] == second["seed"] == 7
    assert abs(first["clock"] - second["clock"]) < 60
    assert first["entropy"] != second["entropy"]
    assert len(bytes.fromhex(first["entropy"])) == 32
    assert {limit for vm in stage.vms for limit in vm.limits} == {20.0}


def test_shells_are_started_once(stage: Stage) -> None:
    stage.vms[0].shells = 4
    guests = stage.guests(cold(booted=KEY, collected=KEY))
    guests.begin()
    guests.collect(OWN)
    assert [message["shells"] for message in stage.vms[0].of("resume")] == [4, 0]


def test_other_request_ends_the_session_of_the_state(stage: Stage) -> None:
    guests = stage.guests(collected())
    guests.begin()
    stage.take()
    guests.collect(replace(OWN, place="hostile"))
    assert stage.take() == ["a: session of 0 ends", "a: configure"]
    assert guests.start.kind is StartKind.BOOTED
    assert "another request" in guests.start.reason


def test_tests_that_may_have_looked_at_other_functions_are_collected_again(stage: Stage) -> None:
    guests = stage.guests(collected(USERS, functions=[{"address": "0000:00:05.0"}]))
    guests.begin()
    guests.collect(USERS)
    assert stage.take() == [
        *("a: resume, attach", "a: session of 0 ends"),
        *("a: configure", "a: detach", "a: saved collected", "a: resume, attach"),
    ]
    assert stage.discarded == [Path("/state")]
    assert guests.start.kind is StartKind.BOOTED


def test_tests_that_looked_at_the_same_functions_stay_collected(stage: Stage) -> None:
    guests = stage.guests(collected(USERS, functions=FUNCTIONS))
    guests.begin()
    guests.collect(USERS)
    assert stage.take() == ["a: resume, attach"]
    assert stage.discarded == []


def test_second_collection_asks_the_guest_again(stage: Stage) -> None:
    """As of several sessions in one VM, each of another request."""
    guests = stage.guests(cold(None))
    guests.begin()
    stage.take()
    for _ in range(2):
        guests.collect(OWN)
    assert stage.take() == ["a: configure", "a: configure"]


def test_busy_cache_saves_nothing_and_nothing_is_detached(stage: Stage) -> None:
    stage.busy = True
    guests = stage.guests(cold(USERS, booted=KEY, collected=KEY))
    guests.begin()
    guests.collect(USERS)
    assert stage.take() == ["a: parked", "a: resume", "a: go", "a: hello", "a: configure"]


def test_guest_that_keeps_its_devices_is_not_saved(stage: Stage) -> None:
    stage.vms[0].refused = "process 9 has /dev/uio0"
    guests = stage.guests(cold(USERS, collected=KEY))
    guests.begin()
    guests.collect(USERS)
    assert stage.take()[-2:] == ["a: configure", "a: detach"]
    assert "process 9 has /dev/uio0" in (stage.vms[0].folder / NOT_SAVED).read_text()


def test_save_that_fails_leaves_the_run_as_it_is(stage: Stage) -> None:
    stage.save_fails = "QEMU refuses"
    guests = stage.guests(cold(USERS, booted=KEY))
    guests.begin()
    guests.collect(USERS)
    assert stage.take() == [
        *("a: parked", "a: detach", "a: resume, attach", "a: go", "a: hello", "a: configure"),
    ]


@pytest.mark.parametrize(
    ("plan", "answers", "lost_at", "words"),
    [
        (collected(), {}, "resumed", "no resumed"),
        (booted(), {}, "resumed", "no resumed"),
        (booted(files=[{"type": "files"}]), {}, "filed", "no filed"),
        (
            booted(files=[{"type": "files"}]),
            {"filed": {"type": "filed", "error": "No space left"}},
            "",
            "No space left",
        ),
        (
            replace(collected(), facts={"collected": {**COLLECTED, "count": 2}}),
            {},
            "",
            "collected tests",
        ),
        (
            replace(collected(), facts={"collected": {**COLLECTED, "items": 5}}),
            {},
            "",
            "not a list",
        ),
    ],
)
def test_guest_that_does_not_come_up_makes_its_state_unusable(
    stage: Stage, plan: Plan, answers: dict[str, Message], lost_at: str, words: str
) -> None:
    for vm in stage.vms:
        vm.answers, vm.lost_at = answers, lost_at
    with pytest.raises(StateUnusable, match=words):
        stage.guests(plan, 2).begin()


def test_loss_of_the_device_process_is_not_the_states(stage: Stage) -> None:
    stage.vms[0].lost_at = "resumed"
    stage.vms[0].device = SimpleNamespace(poll=lambda: 1)
    with pytest.raises(NoVerdict, match="no resumed"):
        stage.guests(collected()).begin()


def test_loss_after_the_resume_is_a_loss(stage: Stage) -> None:
    guests = stage.guests(booted())
    guests.begin()
    stage.vms[0].lost_at = "collected"
    with pytest.raises(NoVerdict, match="no collected"):
        guests.collect(OWN)


def test_collection_that_fails_is_not_saved(stage: Stage) -> None:
    guests = stage.guests(cold(booted=KEY, collected=KEY))
    guests.begin()
    for answer in {**COLLECTED, "errors": ["t.py: SyntaxError"]}, {**COLLECTED, "dropped": ["t"]}:
        stage.vms[0].answers["collected"] = answer
        with pytest.raises(NoVerdict):
            guests.collect(OWN)
    stage.vms[0].answers["collected"] = {"type": "unusable", "text": "no such file"}
    with contextlib.suppress(UsageError):
        guests.collect(OWN)
    assert list(stage.saved) == ["booted"]
