# SPDX-License-Identifier: Apache-2.0
"""The base of descriptors of other memory: a part of one, several in a row, existing ranges.

They own no bytes: their release frees nothing, and the memory behind them stays as it is.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBusyError, IONotAttachedError
from dma_rehearsal.guest.iobuffer.base.flags import PrepareFlags
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    MapRequest,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparation
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Window

# Flags apply to the bytes that are prepared, not to all of the memory behind them.
_NO_FLAGS: Final = PrepareFlags(0)
_SHOWN_MAX: Final = 4  # holders in a message


def clipped(ranges: Iterator[Segment], offset: int, length: int) -> Iterator[Segment]:
    """Yield the ranges (start, length) of the part of them that begins ``offset`` bytes in."""
    for start, size in ranges:
        skip = min(offset, size)
        offset -= skip
        taken = min(size - skip, length)
        if taken:
            yield start + skip, taken
            length -= taken
        if not length:
            return


def clipped_pages(ranges: Iterator[Segment], offset: int, length: int) -> Iterator[Segment]:
    """Yield the part's ranges as `IOMemoryDescriptor._pages` has them, by their place in a page."""
    for start, size in clipped(ranges, offset, length):
        yield start % PAGE, size


def hold(part: IOMemoryDescriptor, direction: IODirection, by: IOMemoryDescriptor) -> Preparation:
    """Wire a part of ``by``; meanwhile others can neither complete nor release it."""
    with part._lock:
        part._check_attached()
        first = not part._preparations.held_by(by)
        # The other descriptor has the account of what devices reach.
        part._record.prepared = part._record.closed = True
        held = part._acquire(direction, _NO_FLAGS, grant=False, by=by)
        if first:
            part._use(by)
        return held


def let_go(part: IOMemoryDescriptor, held: Preparation, by: IOMemoryDescriptor) -> None:
    """Undo one `hold`."""
    with part._lock:
        part._drop(held)
        if not part._preparations.held_by(by):
            part._unuse(by)


class DerivedMemoryDescriptor(IOMemoryDescriptor):
    """A descriptor that owns no bytes. Use it in a ``with``, or call `release`."""

    def __init__(self, direction: IODirection, tag: int = 0) -> None:
        super().__init__(direction, tag)
        self._pid = os.getpid()
        self._released = False
        self._maps: weakref.WeakSet[IOMemoryMap] = weakref.WeakSet()

    def release(self) -> None:
        """Undo the open preparations, and let go of the memory.

        `IOBusyError`, and nothing done, while a DMA may be active, or a mapping or a descriptor
        that is made of this one uses it. `IONotAttachedError` the second time.
        """
        with self._lock:
            self._check_attached()
            mapped = [repr(each) for each in self._maps if not each.unmapped]
            if mapped:
                more = f"; and {len(mapped) - _SHOWN_MAX} more" if len(mapped) > _SHOWN_MAX else ""
                raise IOBusyError(
                    f"release() of {self!r}: unmap first: {'; '.join(mapped[:_SHOWN_MAX])}{more}"
                )
            self._check_idle("release()")
            while (last := self._preparations.last()) is not None:
                self._drop(last)
            self._released = True
            self._record.release()

    @property
    def released(self) -> bool:
        """Whether `release` has been done."""
        return self._released

    def _check_attached(self) -> None:
        if self._released:
            raise IONotAttachedError(f"{self!r} is used after its release")
        if os.getpid() != self._pid:
            raise IONotAttachedError(
                f"{self!r} is of process {self._pid}: a fork does not inherit it"
            )

    def _made(
        self,
        request: MapRequest,
        address: int,
        cache_mode: CacheMode,
        window: Window | None,
        unmap: Callable[[], None],
    ) -> IOMemoryMap:
        """Return the mapping that answers ``request``; we are not released before its unmap."""
        made = IOMemoryMap(
            self,
            request.task,
            address,
            request.length,
            offset=request.offset,
            options=request.options,
            cache_mode=cache_mode,
            mapping=window,
            unmap=unmap,
        )
        self._maps.add(made)
        return made

    def _passed_on(self, request: MapRequest, inner: IOMemoryMap) -> IOMemoryMap:
        """Return ``inner``, another descriptor's mapping, as one of ours."""
        return self._made(
            request, inner.getVirtualAddress(), inner.cache_mode, inner._mapping, inner.unmap
        )

    def _state(self) -> str:
        """Return the end of a ``repr``; this takes no lock."""
        if self._released:
            return "released"
        return f"prepared {self.prepared} times" if self.prepared else "not prepared"
