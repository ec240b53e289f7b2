# SPDX-License-Identifier: Apache-2.0
"""Explains the end of a VM's processes: which ended first, and why."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dma_rehearsal.device import watchdog
from dma_rehearsal.host_harness.process.children import how_it_ended
from dma_rehearsal.host_harness.process.plain_text import tail

# A device process that ends by itself lets its servers end first; QEMU may have died of that.
DEVICE_ENDS_S = 3.0
_ABORTED = (-signal.SIGABRT, 128 + signal.SIGABRT)
_ASSERTION = "Assertion"
_UNANSWERED = "timed out waiting for reply"
LOG_LINES = 1000  # of the end of a log, to look for words in


def of_both(
    device: subprocess.Popen[bytes], qemu: subprocess.Popen[bytes], folder: Path
) -> str | None:
    """Explain the end of either process, the first cause first; None while both run.

    The device process outlives a QEMU that ends, so where both have ended it was the first. If QEMU
    aborted, the device process may be about to end. ``folder`` has their logs.
    """
    if device.poll() is None and qemu.poll() in _ABORTED:
        with contextlib.suppress(subprocess.TimeoutExpired):
            device.wait(DEVICE_ENDS_S)
    if device.poll() is not None:
        said = of_device(device, folder)
        if qemu.poll():
            said += f"; then {of_qemu(qemu, folder)}, because it had lost its device"
        return said
    return None if qemu.poll() is None else of_qemu(qemu, folder)


def of_device(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Explain the end of the device process."""
    said = f"the device process ended with {how_it_ended(process)}"
    if process.poll() == watchdog.STATUS:
        lines = tail(folder / "device.log", LOG_LINES)
        found = [line for line in lines if watchdog.WORDS in line]
        if found:
            return f"{found[0]}: the device process ended itself ({how_it_ended(process)})"
    return said


def of_qemu(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Explain QEMU's end. An abort is an assertion in QEMU, which is quoted."""
    if process.poll() not in _ABORTED:
        return f"QEMU ended with {how_it_ended(process)}"
    lines = [line for line in tail(folder / "qemu.log", LOG_LINES) if _ASSERTION in line]
    why = f": {lines[-1]}" if lines else ""
    return f"QEMU aborted ({how_it_ended(process)}){why}"


def unanswered(lines: Sequence[str]) -> str:
    """Return the line in which QEMU says that the device did not answer, "" without one."""
    return next((line for line in lines if _UNANSWERED in line), "")
