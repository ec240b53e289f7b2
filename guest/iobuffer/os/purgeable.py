# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel may take back: MADV_FREE, and the detection of a purge.

While memory is volatile the kernel may replace any page by zeros. No byte is spent on a canary:
two non-zero bytes of the user's own are remembered for each page. On return one is stored again
with its own value, which stops a purge of that page, and then the other one is compared. A page
with fewer than two is the same after a purge, once its one byte is stored again; whether it was
purged is then asked of /proc/self/pagemap, before anything is stored.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn
from dma_rehearsal.guest.iobuffer.base.flags import PurgeableState
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping

PAGEMAP: Final = Path("/proc/self/pagemap")
_PRESENT_OR_SWAPPED: Final = 0b11 << 62  # Documentation/admin-guide/mm/pagemap.rst

_KEEP: Final = PurgeableState.kIOMemoryPurgeableKeepCurrent
_NON_VOLATILE: Final = PurgeableState.kIOMemoryPurgeableNonVolatile
_VOLATILE: Final = PurgeableState.kIOMemoryPurgeableVolatile
_EMPTY: Final = PurgeableState.kIOMemoryPurgeableEmpty

Byte = tuple[int, int]  # offset in the memory, value


class Purgeable:
    """The purgeable state of one private mapping, all of it. Not locked."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._state = _NON_VOLATILE
        # For each page: a byte to store again, and one to compare; None where a page has none.
        self._marks: list[tuple[Byte | None, Byte | None]] = []

    @property
    def usable(self) -> bool:
        """Whether the bytes are the user's: not volatile, not empty."""
        return self._state is _NON_VOLATILE

    def set(self, new: PurgeableState) -> PurgeableState:
        """Change the state and return the old one; Empty when a volatile memory was purged.

        KeepCurrent changes nothing. Empty stays Empty when it is made Volatile. Empty memory reads
        as zeros.
        """
        old = self._state
        if old is _VOLATILE and new is not _EMPTY and self._was_purged(revive=new is not _KEEP):
            old = _EMPTY
            self._empty()
        if new is _EMPTY and old is not _EMPTY:
            self._empty()
        elif new is _NON_VOLATILE:
            self._state = _NON_VOLATILE
        elif new is _VOLATILE and old is not _EMPTY:
            self._free()
        return old

    def _free(self) -> None:
        self._marks = [self._mark(at) for at in range(0, self._mapping.length, PAGE)]
        self._mapping.advise(mmap.MADV_FREE)
        self._state = _VOLATILE

    def _empty(self) -> None:
        self._mapping.advise(mmap.MADV_DONTNEED)
        self._marks = []
        self._state = _EMPTY

    def _mark(self, at: int) -> tuple[Byte | None, Byte | None]:
        page = self._mapping.read(at, PAGE)
        first = PAGE - len(page.lstrip(b"\0"))
        last = len(page.rstrip(b"\0")) - 1
        if last < 0:
            return None, None
        again = at + first, page[first]
        return again, None if first == last else (at + last, page[last])

    def _was_purged(self, *, revive: bool) -> bool:
        gone = self._absent_pages()
        purged = False
        for index, (again, witness) in enumerate(self._marks):
            if revive and again is not None:
                self._mapping.write(again[0], bytes([again[1]]))
            if witness is not None:
                purged |= self._mapping.read(witness[0], 1)[0] != witness[1]
            else:
                purged |= gone[index]
        return purged

    def _absent_pages(self) -> list[bool]:
        """Return for each page whether it is absent: neither in memory nor on its way to swap."""
        count = self._mapping.length // PAGE
        try:
            with PAGEMAP.open("rb", buffering=0) as pagemap:
                pagemap.seek(self._mapping.address // PAGE * 8)
                entries = memoryview(pagemap.read(8 * count)).cast("Q")
        except OSError as error:
            raise IODeviceError(f"{PAGEMAP}: {error}", code=IOReturn.kIOReturnVMError) from error
        return [not entry & _PRESENT_OR_SWAPPED for entry in entries]
