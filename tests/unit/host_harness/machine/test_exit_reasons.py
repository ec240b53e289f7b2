# SPDX-License-Identifier: Apache-2.0
"""The first of two processes to end is blamed, in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device import watchdog
from dma_rehearsal.host_harness.machine import exit_reasons

Start = Callable[[str], "subprocess.Popen[bytes]"]
ABORTS = "import os; os.abort()"
LIVES = "import sys; sys.stdin.read()"
ASSERTION = "qemu: ../util/error.c:67: error_setv: Assertion `*errp == NULL' failed."


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that live until the test has ended, unless they end by themselves."""
    processes = []

    def run(script: str) -> subprocess.Popen[bytes]:
        # No core file of an abort.
        script = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {script}"
        process = subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    process.wait(20)
    return process


def test_none_while_both_run(start: Start, tmp_path: Path) -> None:
    assert exit_reasons.of_both(start(LIVES), start(LIVES), tmp_path) is None


def test_qemu_alone(start: Start, tmp_path: Path) -> None:
    said = exit_reasons.of_both(start(LIVES), ended(start("raise SystemExit(3)")), tmp_path)
    assert said == "QEMU ended with status 3"


def test_abort_of_qemu_alone_tells_the_assertion(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_reasons, "DEVICE_ENDS_S", 0.01)
    (tmp_path / "qemu.log").write_text(f"warning: x\n{ASSERTION}\n")
    said = exit_reasons.of_both(start(LIVES), ended(start(ABORTS)), tmp_path)
    assert said == f"QEMU aborted (killed by SIGABRT): {ASSERTION}"


@pytest.mark.parametrize("device_first", [True, False], ids=["known", "a moment later"])
def test_abort_of_qemu_is_blamed_on_the_device_process(
    start: Start, tmp_path: Path, device_first: bool
) -> None:
    """QEMU may be gone before the device process, of which it was the first to know."""
    (tmp_path / "qemu.log").write_text(f"{ASSERTION}\n")
    device = start("import sys; sys.stdin.read(); sys.exit(1)")
    qemu = ended(start(ABORTS))
    assert device.stdin
    device.stdin.close()
    if device_first:
        ended(device)
    said = exit_reasons.of_both(device, qemu, tmp_path)
    assert said == (
        "the device process ended with status 1; then QEMU aborted (killed by SIGABRT): "
        f"{ASSERTION}, because it had lost its device"
    )


def test_model_that_hangs_is_named_by_its_access(start: Start, tmp_path: Path) -> None:
    line = f"endpoint {watchdog.WORDS}a write of 0x1 to BAR0 0x8 (DOORBELL) (4 bytes), for 4.0 s"
    (tmp_path / "device.log").write_text(f"{line}\n  File x, line 3\n")
    device = ended(start(f"raise SystemExit({watchdog.STATUS})"))
    said = exit_reasons.of_both(device, start(LIVES), tmp_path)
    assert said == f"{line}: the device process ended itself (status {watchdog.STATUS})"


def test_device_that_ends_with_another_status_is_not_said_to_hang(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "device.log").write_text(f"endpoint {watchdog.WORDS}once, in an earlier run\n")
    said = exit_reasons.of_both(ended(start("raise SystemExit(1)")), start(LIVES), tmp_path)
    assert said == "the device process ended with status 1"


def test_words_of_a_qemu_that_waited_in_vain() -> None:
    assert exit_reasons.unanswered(["qemu: x", "qemu: y: timed out waiting for reply"]).startswith(
        "qemu: y"
    )
    assert exit_reasons.unanswered(["qemu: x"]) == ""
