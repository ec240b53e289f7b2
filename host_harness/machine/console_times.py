# SPDX-License-Identifier: Apache-2.0
"""When the console's log got its bytes: a file of records beside the log."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FILE = "console-times.bin"
RECORDS_MAX = 1 << 16
_FORMAT = struct.Struct("<QQ")  # CLOCK_MONOTONIC in nanoseconds, and the log's size by then


class ConsoleTimes:
    """Writes the file, for the first `RECORDS_MAX` times. OSError when it cannot be made."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._size = self._count = 0

    def tell(self, count: int) -> None:
        """Take note that the log got ``count`` bytes now. A full disk costs the time alone."""
        self._size += count
        if self._count < RECORDS_MAX:
            self._count += 1
            with contextlib.suppress(OSError):
                self._file.write(_FORMAT.pack(time.monotonic_ns(), self._size))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Iterator[tuple[int, int]]:
    """Yield each time in nanoseconds, and the log's size by then; nothing without a file."""
    try:
        with path.open("rb") as file:
            data = file.read(RECORDS_MAX * _FORMAT.size)
    except OSError:
        return
    yield from _FORMAT.iter_unpack(data[: len(data) // _FORMAT.size * _FORMAT.size])
