# SPDX-License-Identifier: Apache-2.0
"""Have the host look at how a range of this process is mapped, from outside the guest.

The host announces that it is ready and gives a number. This process then stops the whole machine
with that number in RCX, by a write to the port of QEMU's pvpanic device, while its page tables are
loaded. The host reads the CPU's registers, walks the tables in RAM and resumes the machine.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from dma_rehearsal.device.layout import MemoryType, WitnessRun
from dma_rehearsal.guest.linux.memory_types import Mtrrs
from dma_rehearsal.guest.session import SETTINGS, HostLink
from dma_rehearsal.guest.testkit.attestation import CheckFailed

PANIC_PORT: Final = 0x505  # QEMU's docs/specs/pvpanic.rst; its default
_PANICKED: Final = 1
# System V ABI: value in edi, port in esi, the fourth argument in rcx, which stays as it is.
#   mov edx, esi; mov eax, edi; out dx, al; ret
_OUT: Final = bytes.fromhex("89f2 89f8 ee c3")


class HostError(CheckFailed):
    """The host could not see the range, or its report is malformed."""


@dataclass(frozen=True, slots=True)
class HostReport:
    """The host's report. ``root`` is the page table that was loaded, ``levels`` 4 or 5.

    ``runs`` come from the host's own walk. ``pat`` is the IA32_PAT that it used, and ``by`` says by
    whose word that and the MTRRs are what they are. ``translations`` are pairs of virtual and
    physical address (None: not mapped) by QEMU, for each run's first and last page.
    """

    root: int
    levels: int
    runs: tuple[WitnessRun, ...]
    translations: tuple[tuple[int, int | None], ...]
    pat: int
    by: str


def stop_machine(number: int) -> None:
    """Stop the machine with ``number`` in RCX; returns when it goes on. Needs root's rights."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as at:
        at.write(_OUT)
        byte = ctypes.c_char.from_buffer(at)
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64
        )
        out = kind(ctypes.addressof(byte))
        if libc.ioperm(PANIC_PORT, 1, 1) != 0:
            number_of_error = ctypes.get_errno()
            raise HostError(f"ioperm of port {PANIC_PORT:#x}: {os.strerror(number_of_error)}")
        try:
            out(_PANICKED, PANIC_PORT, 0, number)
        finally:
            libc.ioperm(PANIC_PORT, 1, 0)
            del byte  # else the mapping cannot be closed


@dataclass(slots=True)
class Host:
    """The host at the other end of the result channel."""

    link: HostLink
    stop: Callable[[int], None] = field(default=stop_machine)

    def witness(self, nodeid: str, address: int, length: int, pat: int, mtrrs: Mtrrs) -> HostReport:
        """Have the host look at [address, address + length) of this process, for a running test.

        ``pat`` and ``mtrrs``, as this guest reads them, are compared with those that QEMU saves.

        `HostError` when the range is not mapped there. An error of the link when the host is out of
        step.
        """
        self.link.send(
            {
                "type": "witness",
                "nodeid": nodeid,
                "address": address,
                "length": length,
                "pat": pat,
                "def_type": mtrrs.def_type,
                "physical_bits": mtrrs.physical_bits,
                "ranges": mtrrs.ranges,
                "fixed": mtrrs.fixed,
            }
        )
        self.stop(int(self.link.receive("armed")["number"]))
        reply = self.link.receive("witnessed")
        if "error" in reply:
            raise HostError(f"the host looked at {length} bytes at {address:#x}: {reply['error']}")
        try:
            return HostReport(
                reply["root"],
                reply["levels"],
                tuple(run_from(**run) for run in reply["runs"]),
                tuple((va, physical) for va, physical in reply["translations"]),
                reply["pat"],
                reply["by"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HostError(f"the host's report is malformed: {error!r}") from error


def run_from(*, pat: str, mtrr: str, effective: str, **rest: Any) -> WitnessRun:
    """Return a run whose types came by name. KeyError or TypeError for a malformed one."""
    return WitnessRun(
        pat=MemoryType[pat], mtrr=MemoryType[mtrr], effective=MemoryType[effective], **rest
    )


HOST = pytest.StashKey[Host]()
"""The host, in the stash of pytest's config; absent without one."""


def pytest_configure(config: pytest.Config) -> None:
    """Store the host where the fixture finds it, if there is one."""
    link = config.stash[SETTINGS].host
    if link is not None:
        config.stash[HOST] = Host(link)
