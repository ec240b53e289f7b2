# SPDX-License-Identifier: Apache-2.0
"""The contents of a BAR that are memory: plain, for reading only, or for the client to map."""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterable

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.vfio_user.messages import PAGE_SIZE
from dma_rehearsal.device.vfio_user.model import Mappable

# Larger memory is sparse: a page exists from the first write to it, until the next reset.
_DENSE_MAX = 16 << 20
_MAP_NORESERVE = 0x4000  # Linux; Python 3.11 does not name it


MemoryData = bytearray | mmap.mmap


def _zeros(size: int) -> MemoryData:
    if size <= _DENSE_MAX:
        return bytearray(size)
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)


class Memory(BarContent):
    """Plain memory, such as a data buffer or a result window. Large memory is sparse."""

    def __init__(self, size: int) -> None:
        self.data = _zeros(size)
        self._keeps_its_size = memoryview(self.data)  # a slice of another length is an error

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return bytes(self.data[offset : offset + length])

    peek = saved = read

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    load = write

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes as a peer's DMA reaches them; None for what lies outside."""
        return memoryview(self.data)[offset : offset + length] if self.has(offset, length) else None

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is within it."""
        return 0 <= offset <= len(self.data) - length

    def reset(self) -> None:
        """Fill with zeros."""
        if isinstance(self.data, mmap.mmap):
            self.data.madvise(mmap.MADV_DONTNEED)
        else:
            self.data[:] = bytes(len(self.data))


class ReadOnlyMemory(Memory):
    """Memory that software, and the DMA of a peer, can read only."""

    def write(self, offset: int, data: bytes) -> None:
        """Ignore what software writes."""

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes for reading; None for what lies outside."""
        view = super().view(offset, length)
        return None if view is None else view.toreadonly()


class RomMemory(ReadOnlyMemory):
    """The expansion ROM: ``image`` and, up to ``size`` bytes, ones. A reset leaves it."""

    def __init__(self, image: bytes, size: int) -> None:
        self.data = bytearray(image.ljust(size, b"\xff"))

    def has(self, offset: int, length: int) -> bool:
        """Return False: a migration need not carry it."""
        del offset, length
        return False

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes for reading; None for what lies outside."""
        if not 0 <= offset <= len(self.data) - length:
            return None
        return memoryview(self.data)[offset : offset + length].toreadonly()

    def reset(self) -> None:
        """Leave the image as it is."""


class SharedMemory(BarContent):
    """``size`` bytes; ``areas`` are pairs of offset and bytes, whole pages within them.

    ``start`` is the offset of the memory in its BAR, in bytes: whole pages as well. Linux cannot
    keep a client from mapping the rest of the file, so put nothing secret there.
    """

    def __init__(self, size: int, areas: Iterable[tuple[int, int]], start: int = 0) -> None:
        """Raise ValueError for an area that is empty, outside, or not of whole pages."""
        checked = tuple(areas)
        for offset, length in checked:
            if offset < 0 or length <= 0 or (offset | length) % PAGE_SIZE or offset + length > size:
                raise ValueError(f"area of {length} bytes at {offset} of {size}")
        descriptor = os.memfd_create("bar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._release = weakref.finalize(self, os.close, descriptor)
        # A client maps a BAR's file at the offsets of the BAR.
        os.ftruncate(descriptor, start + size)
        # A client that could cut the file would end this process with SIGBUS.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        self.data = mmap.mmap(descriptor, size, offset=start)
        mappable = tuple((start + offset, length) for offset, length in checked)
        self.mappable: Mappable = Mappable(descriptor, mappable)

    def close(self) -> None:
        """Give the memory back before this object goes; nothing of it can be used then."""
        self.data.close()
        self._release()

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return self.data[offset : offset + length]

    peek = saved = read

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    load = write

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is within it."""
        return 0 <= offset <= len(self.data) - length

    def reset(self) -> None:
        """Fill with zeros."""
        self.data.madvise(mmap.MADV_REMOVE)
