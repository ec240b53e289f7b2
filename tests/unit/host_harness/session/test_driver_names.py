# SPDX-License-Identifier: Apache-2.0
"""Callers are named by the modules of the run, and by the guest's kernel when it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dma_rehearsal.host_harness.environment.user_modules import DebugFile, Module, UserModules
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.session import driver_names


class Guest:
    """A VM whose guest knows one function; ``asked`` counts the programs that it ran."""

    def __init__(self, stdout: str | None) -> None:
        self.asked = 0
        self._stdout = stdout

    def execute(self, argv: Sequence[str], *, timeout_s: float) -> dict[str, object]:
        assert argv[-1] == "/proc/kallsyms"
        assert timeout_s
        self.asked += 1
        return {"status": 0, "stdout": self._stdout, "stderr": ""}


def test_driver_in_the_kernel_is_named_by_the_guest() -> None:
    guest = Guest("ffffffff81002000 t nvme_map_data\n")
    names = driver_names.of(UserModules(), cast(Vm, guest))
    assert guest.asked == 0
    for _ in range(2):
        assert names.name([0xFFFFFFFF81002010], {"": {"_stext": 1}}) == "nvme_map_data+0x10"
    assert guest.asked == 1


def test_guest_that_tells_nothing_leaves_the_address() -> None:
    names = driver_names.of(UserModules(), cast(Vm, Guest(None)))
    assert names.name([0xFFFFFFFF81002010], {}) == "0xffffffff81002010"


def test_modules_of_the_run_are_known_by_name() -> None:
    broken = Module("my", b"\x7fELF", debug=DebugFile(b"\x7fELF", "/mnt"))
    names = driver_names.of(UserModules((broken,)), cast(Vm, Guest("")))
    assert names.name([0x1010], {"my": {".text": 0x1000}}) == "0x1010"
