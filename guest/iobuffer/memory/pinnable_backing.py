# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel manages, wired by pinning it: the memory behind such a buffer."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IOCannotWireError,
    IONoMemoryError,
    IONotReadyError,
    IOUnsupportedError,
    of_the_system,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_down, align_up
from dma_rehearsal.guest.iobuffer.memory import resting_pins
from dma_rehearsal.guest.iobuffer.memory.backing import FILE, Backing, Share, forsaken_after_fork
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin
from dma_rehearsal.guest.iobuffer.os.purgeable import Purgeable
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement


class PinnableBacking(Backing):
    """Memory that the kernel manages: of a memfd, or private and anonymous (``fd`` -1).

    It can be paged out and moved until `wire` pins it. Only private memory can be purgeable, and
    only memory of a memfd can be shared.
    """

    mode = CacheMode.COPYBACK

    def __init__(
        self,
        pool: str,
        fd: int,
        size: int,
        *,
        mapped: bool,
        purgeable: bool = False,
        highest: int | None = None,
    ) -> None:
        """``fd`` is ours, also on errors; ``size`` in bytes, whole pages.

        ``highest``: the last bus address that is good for it, None for any.
        """
        self.pool, self.size = pool, size
        self._highest = highest
        forsaken_after_fork(self)
        self._fd = fd
        self._pin: Pin | None = None
        self._places: list[Segment] = []
        self._pin_mapping: Mapping | None = None
        try:
            if mapped:
                self.mapping = self._mapped(size)
            if purgeable and self.mapping is not None:
                self.purgeable = Purgeable(self.mapping)
        except BaseException:
            self.close()
            raise

    @property
    def pinned(self) -> bool:
        """Whether the pages are kept in place."""
        return self._pin is not None

    def wire(self) -> None:
        """Pin every page; `IOCannotWireError` when that is refused.

        `IONoMemoryError` when the kernel has it above the highest address: where it lies cannot be
        asked for.
        """
        if self._pin is not None:
            return
        if self.mapping is None and self._pin_mapping is None:
            self._pin_mapping = self._mapped(self.size)
        mapping = self.mapping or self._pin_mapping
        address = mapping.address  # type: ignore[union-attr]
        try:
            pin = dma_platform.open_driver().pin(address, self.size)
        except IOCannotWireError:
            if not resting_pins.wake():
                raise
            pin = dma_platform.open_driver().pin(address, self.size)
        self._hold(pin)

    def adopt(self, pin: Pin) -> None:
        """Take over a pin of just this memory that another process made."""
        self._hold(pin)

    def unwire(self) -> None:
        """Let the pages move again."""
        if self.kernel_map is not None:
            self.kernel_map.close()
            self.kernel_map = None
        pin, self._pin, self._places = self._pin, None, []
        if pin is not None:
            pin.close()
        if self._pin_mapping is not None:
            self._pin_mapping.close()
            self._pin_mapping = None

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the pinned pages' runs."""
        if self._pin is None:
            raise IONotReadyError(
                "the memory is pageable and not prepared: it has no bus address; prepare() it"
            )
        end = offset + length
        start = 0
        for address, size in self._places:
            first, last = max(start, offset), min(start + size, end)
            if first < last:
                yield address + first - start, last - first
            start += size

    def _read_unmapped(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def _write_unmapped(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def map(
        self, offset: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map the file once more; there is one cache mode."""
        if mode is not self.mode:
            raise IOBusyError(
                f"pool {self.pool}: memory that the kernel manages is mapped {self.mode.name}, "
                f"not {mode.name}; other modes need a carve-out"
            )
        if self._fd < 0:
            raise IOUnsupportedError(
                f"pool {self.pool}: private memory (kIOMemoryPurgeable) has one mapping"
            )
        start = align_down(offset, PAGE)
        size = align_up(offset + length, PAGE) - start
        return self._mapped(size, start, placement), offset - start

    def _mapped_by_kernel(self) -> KernelMap:
        if self._pin is None:
            raise IONotReadyError("the kernel maps only memory that is prepared: prepare() it")
        return self._pin.kernel_map()

    def share(self) -> Share:
        """Pass the memfd on, and the pin when there is one."""
        if self._fd < 0:
            return super().share()
        fds = (self._fd,) if self._pin is None else (self._fd, self._pin.fileno())
        return Share(FILE, self.pool, 0, self.size, self.mode, fds)

    def close(self) -> None:
        """Unmap, close, and let the pinned pages rest."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        pin, self._pin = self._pin, None
        self.forsake()
        if pin is not None:
            resting_pins.rest(pin)

    def forsake(self) -> None:
        """Unpin, and close the file."""
        self.unwire()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _mapped(
        self,
        size: int,
        start: int = 0,
        placement: MapPlacement = ANYWHERE,
    ) -> Mapping:
        try:
            return Mapping(self._fd, size, start, placement)
        except OSError as error:
            what = f"pool {self.pool}: mapping"
            raise of_the_system(what, error, length=size, address=placement.at) from error

    def _hold(self, pin: Pin) -> None:
        try:
            places = pin.segments()
            above = [
                address
                for address, length in places
                if self._highest is not None and address + length - 1 > self._highest
            ]
            if above:
                raise IONoMemoryError(
                    f"pool {self.pool}: the kernel has it at {above[0]:#x}, above "
                    f"{self._highest:#x}; wired memory of a carve-out can be asked for by address",
                    asked=self.size,
                    largest=0,
                )
        except BaseException:
            pin.close()
            raise
        self._pin, self._places = pin, places
