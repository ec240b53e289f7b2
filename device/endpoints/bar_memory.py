# SPDX-License-Identifier: Apache-2.0
"""The contents of a BAR: plain memory, memory that the client may map, or registers."""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterable

from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar, SharedBar
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.vfio_user.messages import PAGE_SIZE
from dma_rehearsal.device.vfio_user.model import Mappable


class Memory:
    """A BAR that is plain memory, such as a data buffer or a result window."""

    read_only = False

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return bytes(self.data[offset : offset + length])

    peek = read

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is within it."""
        return 0 <= offset <= len(self.data) - length

    def saved(self, offset: int, length: int) -> bytes:
        """Return what a migration carries of it."""
        return bytes(self.data[offset : offset + length])

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, also where software can only read."""
        self.data[offset : offset + len(data)] = data

    def reset(self) -> None:
        """Fill with zeros."""
        self.data[:] = bytes(len(self.data))


class ReadOnlyMemory(Memory):
    """A BAR that software can read only."""

    read_only = True

    def write(self, offset: int, data: bytes) -> None:
        """Ignore what software writes."""


class SharedMemory:
    """``size`` bytes; ``areas`` are pairs of offset and bytes, whole pages within them.

    Linux cannot keep a client from mapping the rest of the file, so put nothing secret there.
    """

    def __init__(self, size: int, areas: Iterable[tuple[int, int]]) -> None:
        """Raise ValueError for an area that is empty, outside, or not of whole pages."""
        checked = tuple(areas)
        for offset, length in checked:
            if offset < 0 or length <= 0 or (offset | length) % PAGE_SIZE or offset + length > size:
                raise ValueError(f"area of {length} bytes at {offset} of {size}")
        descriptor = os.memfd_create("bar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._release = weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, size)
        # A client that could cut the file would end this process with SIGBUS.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        self.data = mmap.mmap(descriptor, size)
        self.mappable = Mappable(descriptor, checked)

    def close(self) -> None:
        """Give the memory back before this object goes; nothing of it can be used then."""
        self.data.close()
        self._release()

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return self.data[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is within it."""
        return 0 <= offset <= len(self.data) - length

    saved, load = read, write  # of a migration
    peek = read

    def reset(self) -> None:
        """Fill with zeros."""
        self.data[:] = bytes(len(self.data))


BarContent = RegisterFile | Memory | SharedMemory


def contents_of(bars: Bars, owner: object) -> dict[int, BarContent]:
    """Return the contents of declared BARs; ``owner`` has the side effects of the registers."""
    found: dict[int, BarContent] = {}
    for index, bar in bars.items():
        if isinstance(bar, RegisterBar):
            found[index] = RegisterFile(bar.registers, owner, bar.size, bar.prefix)
        elif isinstance(bar, SharedBar):
            found[index] = SharedMemory(bar.size, bar.areas)
        else:
            kind = ReadOnlyMemory if bar.read_only else Memory
            found[index] = kind(bar.size)
    return found
