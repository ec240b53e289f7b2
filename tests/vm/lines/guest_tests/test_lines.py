# SPDX-License-Identifier: Apache-2.0
"""A kernel driver serves each line once, whichever way the kernel has chosen."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.guest.testkit import DriverRehearsal

LINES = 8
PARAMETERS = Path("/sys/module/lines/parameters")
COMMAND_LINE = Path("/proc/cmdline")


def numbers(name: str) -> list[int]:
    return [int(each) for each in (PARAMETERS / name).read_text().split(",")]


def check(driver: DriverRehearsal, expected: int, *, vectors: int = LINES, msix: int = 0) -> None:
    """Each vector has the interrupts of the lines that are folded into it."""
    with driver("lines", vectors=vectors, msix=msix):
        assert numbers("served") == [1] * LINES
        assert numbers("got") == [expected]
        assert numbers("counts")[:expected] == [LINES // expected] * expected
        assert not any(numbers("counts")[expected:])


def test_msix(driver: DriverRehearsal) -> None:
    check(driver, LINES, msix=1)


def test_one_message(driver: DriverRehearsal) -> None:
    check(driver, 1, vectors=1)


def test_four_messages(driver: DriverRehearsal) -> None:
    """Software allocates fewer than the function asks for."""
    check(driver, 4, vectors=4)


def test_eight_messages(driver: DriverRehearsal) -> None:
    check(driver, LINES)


def test_intx(driver: DriverRehearsal) -> None:
    """With pci=nomsi there is nothing else."""
    assert "pci=nomsi" in COMMAND_LINE.read_text()
    check(driver, 1, msix=1)
