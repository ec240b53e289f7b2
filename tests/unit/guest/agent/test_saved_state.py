# SPDX-License-Identifier: Apache-2.0
"""The messages detach and resume: what they do, and which ones are refused before they do it."""

from __future__ import annotations

import fcntl
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.agent import pci_functions, saved_state, shells
from dma_rehearsal.guest.linux import kernel_cmdline
from tests.unit.guest.agent import fake_pci
from tests.unit.guest.agent.fake_pci import EXERCISER, FakePci

Calls = list[tuple[str, Any]]


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePci:
    found = FakePci(tmp_path / "pci")
    fake_pci.use(found, monkeypatch)
    monkeypatch.setattr(saved_state, "PARAMETERS", tmp_path / "run" / "parameters")
    return found


@pytest.fixture
def calls(bus: FakePci, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Return what resume does to the machine, in order."""
    done: Calls = []
    monkeypatch.setattr(time, "clock_settime", lambda _, seconds: done.append(("clock", seconds)))
    monkeypatch.setattr(saved_state, "add_entropy", lambda data: done.append(("entropy", data)))
    monkeypatch.setattr(shells, "start", lambda count: done.append(("shells", count)))
    attach = pci_functions.attach

    def attached() -> list[dict[str, Any]]:
        done.append(("attach", bus.removed()))
        return attach()

    monkeypatch.setattr(pci_functions, "attach", attached)
    return done


def test_other_requests_are_not_answered_here() -> None:
    assert saved_state.handle({"type": "run"}) is None


def test_detach_says_why_it_is_refused(bus: FakePci) -> None:
    bus.process(9, opens="/dev/dma-rehearsal-pci0")
    said = saved_state.handle({"type": "detach"})
    held = "process 9 (holder) has /dev/dma-rehearsal-pci0 open or mapped"
    assert said == {"type": "detached", "refused": held}
    (bus.processes / "9" / "fd" / "7").unlink()
    assert saved_state.handle({"type": "detach"}) == {"type": "detached"}
    assert EXERCISER in bus.removed()


def test_resume_gives_what_a_state_cannot_have(calls: Calls) -> None:
    message = {
        "parameters": ["rehearsal.vectors=4", "rehearsal.soak=1"],
        "shells": 4,
        "seed": 11,
        "clock": 1_800_000_000.5,
        "entropy": "00ff" * 32,
        "attach": True,
    }
    saved_state.handle({"type": "detach"})
    said = saved_state.handle({"type": "resume", **message})
    assert said == {"type": "resumed", "functions": pci_functions.fingerprint()}
    assert calls == [
        ("clock", 1_800_000_000.5),
        ("entropy", b"\0\xff" * 32),
        ("attach", [EXERCISER, fake_pci.EDU, fake_pci.PLATFORM]),
        ("shells", 4),
    ]
    assert saved_state.PARAMETERS.read_text() == "rehearsal.vectors=4 rehearsal.soak=1\n"
    drawn = random.random()
    assert drawn == random.Random(11).random()


def test_parameters_reach_the_tests(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cmdline, "PARAMETERS", saved_state.PARAMETERS)
    for vectors in 4, 8:  # of two runs from one state
        saved_state.handle({"type": "resume", "parameters": [f"rehearsal.vectors={vectors}"]})
        assert kernel_cmdline.device_parameters().vectors == vectors
    assert [name for name, _ in calls] == ["shells", "shells"]


def test_cold_guest_needs_nothing_but_its_parameters(bus: FakePci, calls: Calls) -> None:
    before = random.getstate()
    said = saved_state.handle({"type": "resume", "parameters": [], "shells": 0, "attach": False})
    assert said == {"type": "resumed", "functions": []}
    assert calls == [("shells", 0)]
    assert (bus.bus / "rescan").read_text() == ""
    assert random.getstate() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": "rehearsal.soak=1"},
        {"parameters": ["two words"]},
        {"parameters": ["a\nb"]},
        {"parameters": [""]},
        {"parameters": [7]},
        {"parameters": ["x" * 5000]},
        {"parameters": ["x"] * 1001},
        {"shells": "4"},
        {"shells": True},
        {"shells": 9},
        {"shells": -1},
        {"seed": "7"},
        {"seed": 7.0},
        {"seed": True},
        {"clock": "now"},
        {"clock": -1.0},
        {"clock": float("nan")},
        {"clock": 1e300},
        {"clock": True},
        {"entropy": "zz"},
        {"entropy": ""},
        {"entropy": 7},
        {"entropy": "00" * 513},
        {"attach": 1},
        {"attach": "yes"},
    ],
    ids=lambda wrong: "{}={!r:.20}".format(*next(iter(wrong.items()))),
)
def test_wrong_resume_changes_nothing(calls: Calls, wrong: dict[str, object]) -> None:
    right = {"parameters": ["a"], "shells": 1, "seed": 1, "clock": 1.0, "entropy": "00"}
    before = random.getstate()
    with pytest.raises(ValueError, match=f"resume: .*{next(iter(wrong)).rstrip('s')}"):
        saved_state.handle({"type": "resume", **right, "attach": True, **wrong})
    assert calls == []
    assert random.getstate() == before
    assert not saved_state.PARAMETERS.exists()


def test_entropy_is_credited_and_the_generator_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random").touch()
    monkeypatch.setattr(saved_state, "_RANDOM", tmp_path / "random")
    asked: list[tuple[int, bytes]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _fd, what, data=b"": asked.append((what, data)))
    before = set(Path("/proc/self/fd").iterdir())
    saved_state.add_entropy(b"\x07" * 24)
    # Linux, include/uapi/linux/random.h: _IOW('R', 3, int [2]) and _IO('R', 7)
    add, reseed = 1 << 30 | 8 << 16 | ord("R") << 8 | 3, ord("R") << 8 | 7
    assert asked == [(add, struct.pack("ii", 192, 24) + b"\x07" * 24), (reseed, b"")]
    assert set(Path("/proc/self/fd").iterdir()) == before
