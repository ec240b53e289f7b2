# SPDX-License-Identifier: Apache-2.0
"""/dev/mistakes from user space: what a program does with an ordinary driver."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import zlib
from types import TracebackType
from typing import Self

_ARGUMENT = struct.Struct("<QII")  # data, length, result
_READ_WRITE = 3
SEND, SNAPSHOT, LIST, ECHO = range(1, 5)


def _command(number: int) -> int:
    """Return _IOWR('R', number, struct mistakes_buffer), as asm-generic/ioctl.h makes it."""
    return _READ_WRITE << 30 | _ARGUMENT.size << 16 | ord("R") << 8 | number


class MistakesFile:
    """The device file, open. Each call is one system call; OSError when the driver refuses."""

    def __init__(self, path: str = "/dev/mistakes") -> None:
        self._file = os.open(path, os.O_RDWR)

    def write(self, data: bytes) -> None:
        """Have the device keep ``data``."""
        assert os.write(self._file, data) == len(data)

    def read(self, length: int) -> bytes:
        """Return what the device keeps, at most ``length`` and 4000 bytes."""
        return os.read(self._file, length)

    def send(self, data: bytes) -> int:
        """Return the device's CRC-32 of ``data``."""
        return self._ioctl(SEND, data, len(data))[1]

    def snapshot(self, length: int) -> bytes:
        """Return what the device keeps, by way of coherent memory."""
        return self._ioctl(SNAPSHOT, b"", length)[0]

    def write_list(self, data: bytes) -> None:
        """Have the device keep ``data``, which it gets as a list of segments."""
        self._ioctl(LIST, data, len(data))

    def echo(self, frame: bytes) -> bytes:
        """Send a frame by the rings, and return the one that comes back."""
        return self._ioctl(ECHO, frame, len(frame))[0]

    def _ioctl(self, number: int, data: bytes, length: int) -> tuple[bytes, int]:
        memory = ctypes.create_string_buffer(data, max(length, len(data), 1))
        argument = bytearray(_ARGUMENT.pack(ctypes.addressof(memory), length, 0))
        fcntl.ioctl(self._file, _command(number), argument)
        _, length, result = _ARGUMENT.unpack(argument)
        return memory.raw[:length], result

    def use_everything(self) -> None:
        """Do each kind of transfer twice, and check each result."""
        for turn in range(2):
            data = bytes((turn * 31 + at * 7) & 0xFF for at in range(4096))
            self.write(data[:3000])
            assert self.read(4096) == data[:3000]
            assert self.send(data) == zlib.crc32(data)
            assert self.snapshot(4096) == data[:3000]
            self.write_list(data * 3)
            assert self.snapshot(3 * 4096) == data * 3
            assert self.echo(data[: 60 + turn]) == data[: 60 + turn]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()
