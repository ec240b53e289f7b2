# SPDX-License-Identifier: Apache-2.0
"""A hostile process uses the function's file so that others would have to wait."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction
from dma_rehearsal.guest.iobuffer.os.uapi import BUS_MASTER, EVENTFD, PCI_INFO, SET_INTERRUPTS
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, OtherProcess, Patterns
from dma_rehearsal.guest.testkit.pinning import address_of

pytestmark = pytest.mark.kernel

# userfaultfd(2), asm-generic/unistd.h's number on x86-64, and linux/userfaultfd.h
_USERFAULTFD: Final = 323
_API: Final = 0xC018AA3F
_REGISTER: Final = 0xC020AA00
_FEATURES: Final = struct.Struct("<QQQ")
_RANGE: Final = struct.Struct("<QQQQ")
_MISSING: Final = 1
_EVENT_BYTES: Final = 32
_PAGE_FAULT: Final = 0x12

_libc: Final = ctypes.CDLL(None, use_errno=True)


def never_filled() -> tuple[mmap.mmap, int]:
    """Return a page that is this process's to fill in, and the file that tells of a fault in it."""
    memory = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fd = _libc.syscall(_USERFAULTFD, os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    fcntl.ioctl(fd, _API, bytearray(_FEATURES.pack(0xAA, 0, 0)))
    fcntl.ioctl(fd, _REGISTER, bytearray(_RANGE.pack(address_of(memory), PAGE, _MISSING, 0)))
    return memory, fd


def asks_with(node: Path, command: int) -> Callable[..., Any]:
    """Return what a process does whose ioctl waits for its argument; it says that it does."""

    def body(ask: Callable[[], Any]) -> Iterator[Any]:
        memory, faults = never_filled()
        place = ctypes.c_void_p(address_of(memory))
        with DriverFunction(node) as function:
            call = _libc.ioctl, function.fileno(), ctypes.c_ulong(command), place
            threading.Thread(target=lambda: call[0](*call[1:]), daemon=True).start()
            yield os.read(faults, _EVENT_BYTES)[0]
            ask()

    return body


@pytest.mark.promise("MSI-X")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(PCI_INFO, id="PCI_INFO"),
        pytest.param(EVENTFD, id="EVENTFD"),
        pytest.param(BUS_MASTER, id="BUS_MASTER"),
        pytest.param(SET_INTERRUPTS, id="SET_INTERRUPTS"),
    ],
)
def test_who_waits_for_its_own_memory_holds_nobody_up(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, command: int
) -> None:
    """An ioctl that sleeps on its argument keeps no lock that the next one wants."""
    before, node = bench.device.driver.info(), bench.device.pci.driver_node()
    assert node is not None

    def others(ask: Callable[[], Any]) -> Iterator[Any]:
        ask()
        with DriverFunction(node) as function:
            yield function.info()

    # The one that waits ends first: the other one may have to wait for it.
    with OtherProcess(others) as other, OtherProcess(asks_with(node, command)) as waiting:
        event = waiting.hear()
        other.tell()
        found = other.hear()
        seen = bench.device_writes(buffer(kIODirectionInOut, PAGE), data.take(PAGE))
    attest(
        "MSI-X",
        asked="the function's state, while another process's ioctl waits for its own page",
        attested=f"{seen}; event {event:#x}; {found}, and before {before}",
        kept=event == _PAGE_FAULT and found == before,
    )
