# SPDX-License-Identifier: Apache-2.0
"""Pools of memory that the kernel manages: pageable, pinned page by page, or in huge pages.

Their memory is write-back: user space cannot give it another cache mode. Other modes need a
carve-out.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOCannotWireError,
    IODeviceError,
    IONoMemoryError,
    IOReturn,
    of_the_system,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_up
from dma_rehearsal.guest.iobuffer.memory import resting_pins
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Request

HUGE_PAGE: Final = 2 << 20
MEMINFO: Final = Path("/proc/meminfo")
HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_MFD_HUGE_2MB: Final = 21 << 26
FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def _available() -> int:
    """Bytes that could be had without swapping, as the kernel estimates it."""
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


class _Managed:
    """The common part of the pools here."""

    name: str
    _wired = True

    @property
    def size(self) -> int:
        """Half of the memory that is available now: the guest needs the rest."""
        return _available() // 2

    def free_size(self) -> int:
        """Bytes that could be had."""
        return self.size

    def _refuses(self, request: Request) -> str:
        if request.pageable is self._wired:
            return "its memory is wired" if self._wired else "its memory is pageable"
        if request.mode is not CacheMode.COPYBACK:
            return f"{request.mode.name}: memory that the kernel manages is write-back"
        if request.capacity > self.size:
            return f"at most {self.size} bytes of memory that the kernel manages"
        return ""

    def _memory(self, request: Request, size: int, flags: int = 0) -> Backing:
        """Make the memory; a huge page that is not there is `IONoMemoryError`."""
        if request.purgeable:
            return PinnableBacking(
                self.name, -1, size, mapped=True, purgeable=True, highest=request.highest
            )
        fd = -1
        try:
            fd = os.memfd_create(
                f"dma-rehearsal-{self.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags
            )
            os.ftruncate(fd, size)
            if not flags:
                for page in dma_platform.placement.touched(size // PAGE):
                    os.pwrite(fd, b"\0", page * PAGE)
            # No process that gets it can take away what others have mapped.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, FIXED_SIZE | fcntl.F_SEAL_SEAL)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise of_the_system(f"pool {self.name}: a file in memory", error, length=size) from (
                error
            )
        return PinnableBacking(self.name, fd, size, mapped=request.mapped, highest=request.highest)

    def _wired_memory(self, request: Request, size: int, flags: int = 0) -> Backing:
        try:
            return self._wired_at_once(request, size, flags)
        except (IONoMemoryError, IOCannotWireError):
            if not resting_pins.wake():
                raise
        return self._wired_at_once(request, size, flags)

    def _wired_at_once(self, request: Request, size: int, flags: int) -> Backing:
        backing = self._memory(request, size, flags)
        try:
            dma_platform.reclaim_grants()
            backing.wire()
        except BaseException:
            backing.close()
            raise
        return backing


class PageablePool(_Managed):
    """Memory that can be paged out and moved, until it is prepared."""

    name = "pageable"
    _wired = False

    def refuses(self, request: Request) -> str:
        """Refuse wired memory, and purgeable memory to share."""
        if request.purgeable and (request.shared or not request.mapped):
            return "purgeable memory is private to the task that makes it"
        return self._refuses(request)

    def take(self, request: Request) -> Backing:
        """Make memory; nothing is wired."""
        return self._memory(request, align_up(request.capacity, PAGE))


class PinnedPool(_Managed):
    """Single pages, pinned: wired, and as scattered as they come."""

    name = "pinned"

    def refuses(self, request: Request) -> str:
        """Refuse requests that need more than single pages."""
        if request.contiguous and request.capacity > PAGE:
            return f"its memory is contiguous for {PAGE} bytes"
        if request.alignment > PAGE:
            return f"its memory is aligned to {PAGE} bytes"
        return self._refuses(request)

    def take(self, request: Request) -> Backing:
        """Make memory and pin it."""
        return self._wired_memory(request, align_up(request.capacity, PAGE))


class HugePool(_Managed):
    """Huge pages of 2 MiB, pinned: contiguous up to their size.

    They are surplus pages (nr_overcommit_hugepages): the kernel makes them when they are asked for,
    and has them back when they are free, also after a crash.
    """

    name = "hugetlb"

    def refuses(self, request: Request) -> str:
        """Refuse requests that do not fit into one huge page."""
        if not HUGE_PAGES.is_dir():
            return "this kernel has no huge pages of 2 MiB"
        if request.contiguous and request.capacity > HUGE_PAGE:
            return f"its memory is contiguous for {HUGE_PAGE} bytes"
        if request.alignment > HUGE_PAGE:
            return f"its memory is aligned to {HUGE_PAGE} bytes"
        return self._refuses(request)

    def take(self, request: Request) -> Backing:
        """Make huge pages and pin them."""
        size = align_up(request.capacity, HUGE_PAGE)
        self._allow(size // HUGE_PAGE)
        try:
            return self._wired_memory(request, size, os.MFD_HUGETLB | _MFD_HUGE_2MB)
        except (IONoMemoryError, IOCannotWireError) as error:
            raise IONoMemoryError(
                f"pool {self.name}: {size // HUGE_PAGE} huge page(s) of {HUGE_PAGE} bytes asked, "
                f"and the kernel finds no such run: {error}",
                asked=request.capacity,
                largest=0,
            ) from error

    def _allow(self, count: int) -> None:
        """Let the kernel make ``count`` more."""
        limit = HUGE_PAGES / "nr_overcommit_hugepages"
        try:
            surplus = int((HUGE_PAGES / "surplus_hugepages").read_text())
            if int(limit.read_text()) < surplus + count:
                limit.write_text(str(surplus + count + 16))
        except (OSError, ValueError) as error:
            raise IODeviceError(f"{limit}: {error}", code=IOReturn.kIOReturnNoResources) from error
