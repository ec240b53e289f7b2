# SPDX-License-Identifier: Apache-2.0
"""Accesses to BARs of PCI functions, in memory and in I/O space, and the base of their errors."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final, Literal

# memoryview formats by the bytes of an access
_FORMATS: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class PciError(Exception):
    """Base of errors about PCI functions and their models; the message says where."""


class Bar:
    """A mapped BAR: ``words`` does one 32-bit access for each index, ``data`` one for each byte.

    An access stops the CPU until the device has taken it, so one of 64 bits is half the price of
    two.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.data = memoryview(memory)
        self.words = self.data.cast("I")
        self._quads = self.data.cast("Q")

    def __getitem__(self, offset: int) -> int:
        return self.words[offset >> 2]

    def __setitem__(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value

    def set64(self, offset: int, value: int) -> None:
        """Write a register of 64 bits, or a LO and a HI register that follow each other.

        One access where ``offset`` is a multiple of 8; else two, LO first.
        """
        if offset & 7:
            self.words[offset >> 2] = value & 0xFFFFFFFF
            self.words[(offset >> 2) + 1] = value >> 32
        else:
            self._quads[offset >> 3] = value

    def get64(self, offset: int) -> int:
        """Read what `set64` writes, in as many accesses."""
        if offset & 7:
            return self.words[offset >> 2] | self.words[(offset >> 2) + 1] << 32
        return self._quads[offset >> 3]

    def block(self, offset: int, length: int) -> bytes:
        """Read registers that follow each other, by 64-bit accesses: half as many as one by one.

        ``offset`` and ``length`` are multiples of 8.
        """
        found = self._quads[offset >> 3 : offset + length >> 3].tolist()
        return struct.pack(f"<{len(found)}Q", *found)

    def load(self, offset: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes in one access; ``offset`` is a multiple of ``size``."""
        with self.data.cast(_FORMATS[size]) as view:
            return int(view[offset // size])

    def store(self, offset: int, value: int, size: int) -> None:
        """Write 1, 2, 4 or 8 bytes in one access; ``offset`` is a multiple of ``size``."""
        with self.data.cast(_FORMATS[size]) as view:
            view[offset // size] = value

    def close(self) -> None:
        """Unmap; BufferError while a view of ``data`` lives elsewhere."""
        self.words.release()
        self._quads.release()
        self.data.release()
        self._memory.close()


class Ports:
    """A BAR in I/O space: each call is one access of 1, 2 or 4 bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def load(self, offset: int, size: int = 4) -> int:
        """Read; `PciError` for an access that there cannot be."""
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise self._error(offset, size, error.strerror) from error
        if len(data) != size:
            raise self._error(offset, size, f"{len(data)} bytes came")
        return int.from_bytes(data, "little")

    def store(self, offset: int, value: int, size: int = 4) -> None:
        """Write; `PciError` as `load`."""
        try:
            os.pwrite(self._fd, value.to_bytes(size, "little"), offset)
        except OSError as error:
            raise self._error(offset, size, error.strerror) from error

    def _error(self, offset: int, size: int, why: object) -> PciError:
        return PciError(f"{self._path}: {size} bytes at {offset:#x}: {why}; use 1, 2 or 4 bytes")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
