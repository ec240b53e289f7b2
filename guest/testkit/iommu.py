# SPDX-License-Identifier: Apache-2.0
"""For tests of a device behind an IOMMU: memory mapped for it, and the kernel's log of faults."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.vfio import Container, Iova
from dma_rehearsal.guest.iobuffer import IODirection
from dma_rehearsal.guest.iobuffer.base.closing import Closing

HUGE_PAGE: Final = 2 << 20
KERNEL_LOG: Final = Path("/dev/kmsg")
HUGE_PAGES: Final = Path("/proc/sys/vm/nr_hugepages")
RATE_INTERVAL: Final = 5.2  # seconds; the kernel's five, and some ticks
RATE_FAULTS: Final = 3
_MAP_HUGETLB: Final = 0x40000  # asm-generic/mman-common.h
_RECORD_SIZE: Final = 8192
_FAULT: Final = re.compile(r"DMAR: \[DMA (Read|Write)[^]]*\] .*fault addr 0x([0-9a-f]+) ")


class HasView(Protocol):
    """Memory of this process, of any kind."""

    @property
    def address(self) -> int:
        """Where it is mapped."""

    def view(self) -> memoryview:
        """Return the CPU's view."""


class Anonymous:
    """Memory that the kernel gives to any process, in small pages or huge ones."""

    def __init__(self, length: int, *, huge: bool = False) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB * huge
        self._memory = mmap.mmap(-1, length, flags=flags)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def view(self) -> memoryview:
        """Return the CPU's view."""
        return memoryview(self._memory)


def scattered(length: int) -> Anonymous:
    """Return memory whose pages are physically not in the order of its addresses."""
    memory, other = Anonymous(length), Anonymous(length)
    with memory.view() as view, other.view() as between:
        for page in (*range(length - PAGE, -1, -2 * PAGE), *range(0, length, 2 * PAGE)):
            view[page] = between[page] = 1
    return memory


@contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """Have the kernel reserve ``count`` huge pages within the ``with``."""
    before = HUGE_PAGES.read_text()
    HUGE_PAGES.write_text(str(count))
    try:
        yield
    finally:
        HUGE_PAGES.write_text(before)


class MappedMemory:
    """Memory mapped for the device behind the IOMMU: its segments are bus addresses."""

    def __init__(self, view: memoryview, iova: Iova) -> None:
        self._view, self.iova = view, iova

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""
        return self.iova.va

    def view(self) -> memoryview:
        """Return the CPU's view."""
        return self._view[:]

    def close(self) -> None:
        """Take it from the device, then release the view, which keeps the memory alive."""
        self.iova.close()
        self._view.release()

    def getLength(self) -> int:
        """Return its bytes."""
        return self.iova.length

    def getDirection(self) -> IODirection:
        """Return what the device may do."""
        return self.iova.direction

    def getPhysicalAddress(self) -> int:
        """Return the bus address of the first byte."""
        return self.iova.address

    def getPhysicalSegment(self, offset: int = 0) -> tuple[int, int]:
        """Return the bus address of the byte at ``offset``, and how far that segment goes on."""
        ((address, length),) = self.iova.segments
        return address + offset, length - offset

    def segments(self, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
        """Return (bus address, bytes) of a part: one segment."""
        size = self.iova.length - offset if length is None else length
        return [(self.iova.address + offset, size)]

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return what the CPU finds there."""
        return bytes(self._view[offset : offset + length])

    def writeBytes(self, offset: int, data: bytes) -> int:
        """Store bytes as the CPU does."""
        self._view[offset : offset + len(data)] = data
        return len(data)


class Mapper:
    """Maps memory for the devices of a container until the end of its ``with``."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._stack = ExitStack()

    def __call__(
        self,
        memory: HasView,
        *,
        read: bool = True,
        write: bool = True,
        address: int | None = None,
    ) -> MappedMemory:
        """Map ``memory`` for the device: all of it, whole pages, at ``address`` if one is given.

        Raises the errors of `Container.map`.
        """
        view = memory.view()
        iova = self.container.map(
            memory.address, len(view), read=read, write=write, address=address
        )
        mapped = MappedMemory(view, iova)
        self._stack.callback(mapped.close)
        return mapped

    def __enter__(self) -> Mapper:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class KernelLog(Closing):
    """The IOMMU's faults in the kernel's log, from now on. A context manager.

    Linux logs three of them in five seconds and drops the others: each takes three from a rate
    limit of ten (drivers/iommu/intel/dmar.c). So call `pace` before each DMA that must fault.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin, self._told = -RATE_INTERVAL, 0
        self._fd = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def pace(self) -> None:
        """Wait until the kernel will log one more fault."""
        left = self._begin + RATE_INTERVAL - self._clock()
        if self._told == RATE_FAULTS and left > 0:
            time.sleep(left)
            left = 0
        if left <= 0:
            self._begin, self._told = self._clock(), 0
        self._told += 1

    def rest(self) -> None:
        """Have the next `pace` wait until the kernel's rate limit is at its start again."""
        self._begin, self._told = self._clock(), RATE_FAULTS

    def await_fault(self, address: int, *, write: bool, timeout: float = 2.0) -> str:
        """Return the record of a DMA at ``address``; empty after ``timeout`` seconds.

        The IOMMU keeps one record until the kernel has taken it, so each is waited for.
        """
        wanted = ("Write" if write else "Read", address & -PAGE)
        deadline = self._clock() + timeout
        while (left := deadline - self._clock()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                break
            text = os.read(self._fd, _RECORD_SIZE).decode(errors="replace")
            found = _FAULT.search(text)
            if found and (found[1], int(found[2], 16)) == wanted:
                return text.partition(";")[2].splitlines()[0]
        return ""

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
