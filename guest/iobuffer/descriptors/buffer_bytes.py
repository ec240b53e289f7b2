# SPDX-License-Identifier: Apache-2.0
"""The bytes of a buffer: views of them, copies in and out, and how many count."""

from __future__ import annotations

import gc
import weakref
from abc import abstractmethod
from typing import Any, ClassVar

from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IONotReadyError
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import Data, IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.memory.backing import Backing


class BufferBytes(IOMemoryDescriptor):
    """`getLength` bytes of ``_capacity``, as `IOBufferMemoryDescriptor` has them."""

    strict: ClassVar[bool]
    _capacity: int
    _length: int
    _exporter: weakref.ref[Any] | None

    @abstractmethod
    def _attached(self) -> Backing:
        """Return what it stands on; `IONotAttachedError` after its release."""

    def view(self) -> memoryview:
        """Return the buffer's `getLength` bytes as a writable memoryview, without a copy.

        The view keeps the descriptor alive, and the descriptor cannot be released before it.
        `IONotReadyError` when the buffer is another task's: create a mapping.
        """
        with self._lock:
            return self._memory(self._attached(), self._length)

    def footprint(self) -> memoryview:
        """Return all bytes that belong to this buffer alone: `view`'s, and on to the block's end.

        What follows `getLength` bytes is padding to whole cache lines or pages; tests put canaries
        there. The same rules as for `view`.
        """
        with self._lock:
            backing = self._attached()
            return self._memory(backing, backing.size)

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on (PEP 688)."""
        return self.view()

    def getBytesNoCopy(self, start: int = 0, withLength: int | None = None) -> memoryview | None:
        """Return a view of a part, the whole by default; None when it is not within the length."""
        with self._lock:
            length = self.getLength()
            end = length if withLength is None else start + withLength
            if not 0 <= start < length or not start <= end <= length:
                return None
            return self._memory(self._attached(), length)[start:end]

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; nothing, not a part, when the range passes the length.

        `IONotReadyError` for memory that is not prepared, if ``strict``.
        """
        with self._lock:
            self._check_wired("readBytes")
            return super().readBytes(offset, length)

    def writeBytes(self, offset: int, data: Data | None, length: int | None = None) -> int:
        """Store ``data`` (None: ``length`` zeros) and return how many bytes were stored.

        0, and nothing is stored, when the range passes the length; if ``strict``, also while the
        memory is prepared for Out alone, as wired memory for Out always is. `IONotReadyError` for
        memory that is not prepared, if ``strict``.
        """
        with self._lock:
            self._check_wired("writeBytes")
            if self.strict and self._preparations.read_only:
                return 0
            return super().writeBytes(offset, data, length)

    def _check_wired(self, what: str) -> None:
        self._check_attached()
        if self.strict and not self._preparations:
            raise IONotReadyError(
                f"{what}() of {self!r}: IOKit reaches memory by its place, and panics while it has "
                "none; prepare() it, or use a view or a mapping"
            )

    def appendBytes(
        self, data: bytes | bytearray | memoryview, withLength: int | None = None
    ) -> int:
        """Store bytes behind the length, as many as the capacity has room for, and count them in.

        Return how many were stored.
        """
        with self._lock:
            self._check_attached()
            data = bytes(data)  # lengths are bytes, also of a view with wider items
            count = len(data) if withLength is None else min(withLength, len(data))
            count = max(0, min(count, self._capacity - self._length))
            self._write(self._length, data[:count])
            self._length += count
            return count

    def __len__(self) -> int:
        return self.getLength()

    def getCapacity(self) -> int:
        """Return the bytes asked for."""
        self._check_attached()
        return self._capacity

    def getLength(self) -> int:
        """Return the length in bytes: the capacity, until `setLength` says something else."""
        self._check_attached()
        return self._length

    def setLength(self, length: int) -> None:
        """Set the length, 0 to the capacity; `IOBadArgumentError` above."""
        with self._lock:
            self._check_attached()
            if not 0 <= length <= self._capacity:
                raise IOBadArgumentError(
                    f"length {length}: 0 to the capacity, {self._capacity}", length=length
                )
            self._length = length

    # What IOMemoryDescriptor wants to know.

    def _extent(self) -> int:
        return self._capacity

    def _mappable(self) -> int:
        return self._length if self.strict else self._capacity

    def _read(self, offset: int, length: int) -> bytes:
        return self._attached().read(offset, length)

    def _write(self, offset: int, data: bytes) -> None:
        self._attached().write(offset, data)

    def _memory(self, backing: Backing, size: int) -> memoryview:
        # A ctypes array, since a memoryview keeps its exporter alive, and that can keep us alive.
        exporter: Any = None if self._exporter is None else self._exporter()
        if exporter is None:
            exporter = backing.export()
            exporter.descriptor = self
            exporter.taken_at = provenance.here()
            self._exporter = weakref.ref(exporter)
        return memoryview(exporter).cast("B")[:size]

    def _what_views_live(self) -> str:
        """Say which views hold the memory, "" for none. An error must not hold it itself."""
        exporter = None if self._exporter is None else self._exporter()
        if exporter is None:
            return ""
        taken = provenance.text(exporter.taken_at)
        return (
            f"{_count_views(exporter)} still alive, the first of them taken at {taken}; "
            "release or delete it first"
        )


def _count_views(exporter: object) -> str:
    """Say how many memoryviews of ``exporter`` live, for a message."""
    holders = [r for r in gc.get_referrers(exporter) if type(r).__name__ == "managedbuffer"]
    sizes = []
    for view in (r for holder in holders for r in gc.get_referrers(holder)):
        if isinstance(view, memoryview):
            try:
                sizes.append(str(view.nbytes))
            except ValueError:  # released, and only its object is left
                continue
    if not sizes:
        return "something that uses a view's memory is"
    return f"{len(sizes)} memoryview(s) of it (of {', '.join(sizes)} bytes) are"
