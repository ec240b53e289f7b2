# SPDX-License-Identifier: Apache-2.0
"""However the harness ends, no process, socket or folder stays."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import LIMIT_S, last_line
from tests.vm.harness import BOOT, TESTS, Harness


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(number, moment, marks=marks, id=f"{number.name}-{name}")
        for number, name, moment, marks in (
            (signal.SIGKILL, "boot", BOOT, ()),
            (signal.SIGTERM, "tests", TESTS, ()),
            (signal.SIGKILL, "tests", TESTS, pytest.mark.full),
            (signal.SIGTERM, "boot", BOOT, pytest.mark.full),
            (signal.SIGINT, "boot", BOOT, pytest.mark.full),
            (signal.SIGINT, "tests", TESTS, pytest.mark.full),
        )
    ],
)
def test_killed_harness_leaves_nothing(
    harness: Callable[..., Harness], number: signal.Signals, moment: bytes
) -> None:
    # The console of a guest that is restored does not tell of its boot.
    run = harness("suite/test_direction.py", **({"STATE": "no"} if moment == BOOT else {}))
    run.await_text(moment)
    start = time.monotonic()
    run.process.send_signal(number)
    run.process.wait(30)
    assert time.monotonic() - start < 15, "it ends when it is told to"
    run.check_nothing_is_left()
    if number is not signal.SIGKILL:
        assert run.process.returncode == 4
        assert last_line(run.output.read_text())[0] == 4
        assert (run.runs / "latest" / "status").read_text() == "4\n"


@pytest.mark.full
@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 0),
        ({"FAULT": "device-write-flip"}, 1),
        ({"FAULT": "report-lost"}, 4),
        ({"APPEND": "dma_rehearsal.carveouts=nonsense"}, 4),
    ],
    ids=["passed", "failed", "no verdict", "panic"],
)
def test_ended_harness_leaves_nothing(
    harness: Callable[..., Harness], settings: dict[str, str], status: int
) -> None:
    run = harness("-k", "test_in and 4096", **settings)
    assert run.process.wait(LIMIT_S) == status
    run.check_nothing_is_left()
    assert not (run.runs / "latest" / "vm.json").exists()


@pytest.mark.full
def test_killed_harness_ends_its_kept_vm(harness: Callable[..., Harness]) -> None:
    run = harness("-k", "test_in and 4096", KEEP="1", GDB="1")
    run.await_text(b"the VM is kept")
    run.process.kill()
    run.process.wait()
    run.check_nothing_is_left()


@pytest.mark.full
def test_two_at_once_do_not_disturb_one_another(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("1", "2")]
    for folder in folders:
        folder.mkdir()
    both = [Harness(folder, "-k", "test_in_out or test_release") for folder in folders]
    try:
        assert [each.process.wait(LIMIT_S) for each in both] == [0, 0]
    finally:
        for each in both:
            each.process.kill()
            each.process.wait()
    for each in both:
        each.check_nothing_is_left()
        assert (each.runs / "latest" / "status").read_text() == "0\n"
