# SPDX-License-Identifier: Apache-2.0
"""Where the suite's processes and threads run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.testkit.other_process import OtherProcess

ALLOWED = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Linux's list of CPUs: those on which this process may run."""
    file = tmp_path / "online"
    file.write_text(",".join(map(str, ALLOWED)) + "\n")
    monkeypatch.setattr(processors, "ONLINE", file)
    return file


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", [0]), ("0-1", [0, 1]), ("0-2,5,8-9", [0, 1, 2, 5, 8, 9])]
)
def test_online(online: Path, text: str, cpus: list[int]) -> None:
    online.write_text(f"{text}\n")
    assert processors.online() == cpus


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_thread_is_placed_by_itself(number: int) -> None:
    seen: list[tuple[set[int], int]] = []

    def run() -> None:
        processors.place(number)
        seen.append((os.sched_getaffinity(0), processors.current()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    place = number % len(ALLOWED)
    assert seen == [({ALLOWED[place]}, place)]
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


def test_a_cpu_is_known_by_its_place(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online.write_text("2,5\n")
    monkeypatch.setattr(processors, "_libc", SimpleNamespace(sched_getcpu=lambda: 5))
    assert processors.current() == 1


def test_each_is_run_on_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[set[int]] = []
    place = os.sched_setaffinity

    def watched(pid: int, cpus: set[int]) -> None:
        steps.append(set(cpus))
        place(pid, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", watched)
    processors.run_on_each()
    assert steps == [*({cpu} for cpu in ALLOWED), set(ALLOWED)]


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU: allow this process a second one")
def test_another_process_runs_on_another_cpu() -> None:
    def body(_ask: Any) -> Iterator[object]:
        yield os.sched_getaffinity(0)

    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ALLOWED[1]})
    try:
        with OtherProcess(body) as other, OtherProcess(body, cpu=0) as same:
            assert other.hear().isdisjoint({ALLOWED[1]})
            assert same.hear() == {ALLOWED[1]}
    finally:
        os.sched_setaffinity(0, here)
