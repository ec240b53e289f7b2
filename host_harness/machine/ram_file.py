# SPDX-License-Identifier: Apache-2.0
"""A guest's RAM in a file: its pages without those of zeros, in extents with a checksum each.

The file has the extents' bytes, one behind the other, and no holes: so it takes as much disk on any
file system, and reading it needs nothing of one. The list of extents is kept elsewhere (JSON).
Copying and CRC-32 (zlib) release the GIL, so a few threads share the work.
"""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.page import PAGE

# An extent has at most these bytes: what a thread copies and checks at a time, within its cache.
_EXTENT_MAX = 1 << 20
# Up to these bytes of zeros between two others are kept: extents then are fewer, and hardly longer.
_GAP_MAX = 8 * PAGE
_THREADS = 2
_ZEROS = bytes(PAGE)


class RamFileError(Exception):
    """The file is not, or not any more, the RAM that its extents describe."""


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes at ``offset`` of RAM, which are at ``place`` of the file; their CRC-32."""

    offset: int
    length: int
    place: int
    crc: int

    def as_json(self) -> list[int]:
        """Return the extent for JSON; `from_json` reads it."""
        return [self.offset, self.length, self.place, self.crc]

    @classmethod
    def from_json(cls, value: object, ram_size: int) -> Extent:
        """Return an extent of RAM of ``ram_size`` bytes; RamFileError for what cannot be one."""
        numbers = value if isinstance(value, list) and len(value) == 4 else []
        if not numbers or not all(type(each) is int and each >= 0 for each in numbers):
            raise RamFileError(f"{value!r:.80} does not describe an extent of RAM")
        found = cls(*numbers)
        if not 0 < found.length <= _EXTENT_MAX or found.offset + found.length > ram_size:
            raise RamFileError(f"{value!r:.80} is not within the RAM of {ram_size} bytes")
        return found


def write(ram: int, path: Path, limit_s: float = math.inf) -> list[Extent]:
    """Write the RAM behind the descriptor ``ram`` to the new file ``path``; return its extents.

    The RAM must not change meanwhile. OSError when the file cannot be written, in whole or in part;
    TimeoutError, which is one, when that is not done within ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    found: list[Extent] = []
    end = 0
    turn = threading.Lock()
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:

        def keep(offset: int, length: int) -> None:
            nonlocal end
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is not written within {limit_s:g} s")
            data = os.pread(ram, length, offset)
            for start, stop in _runs(data):
                with turn:
                    place, end = end, end + stop - start
                part = memoryview(data)[start:stop]
                _write_all(out, part, place)
                found.append(Extent(offset + start, len(part), place, zlib.crc32(part)))

        _share(keep, _data(ram))
    finally:
        os.close(out)
    return sorted(found, key=lambda each: each.offset)


class Filling:
    """Fills new RAM from a file, in threads: `start` it, then `finish` or `close`.

    ``ram`` is the descriptor of RAM that is all zeros, and stays open until then.
    """

    def __init__(self, path: Path, extents: list[Extent], ram: int) -> None:
        self._path = path
        self._extents = extents
        self._ram = ram
        self._stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._fill, name="fill RAM", daemon=True)

    def start(self) -> None:
        """Begin to fill."""
        self._thread.start()

    def finish(self, limit_s: float) -> None:
        """Wait until the RAM is as it was, for ``limit_s`` seconds at most.

        RamFileError when that takes longer, or the file is not as it was made.
        """
        self._thread.join(limit_s)
        if self._thread.is_alive():
            raise RamFileError(f"{self._path.name}: it is not read within {limit_s:g} s")
        if self._error is not None:
            raise RamFileError(f"{self._path.name}: {self._error}") from self._error

    def close(self) -> None:
        """Stop early; return when the descriptor is in use no more."""
        self._stopped = True
        if self._thread.is_alive():
            self._thread.join()

    def _fill(self) -> None:
        try:
            source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _share(
                    lambda extent: self._copy(source, extent),
                    ((extent,) for extent in self._extents),
                )
            finally:
                os.close(source)
        except (OSError, RamFileError) as error:
            self._error = error

    def _copy(self, source: int, extent: Extent) -> None:
        if self._stopped:
            return
        data = os.pread(source, extent.length, extent.place)
        if len(data) != extent.length:
            raise RamFileError("it is truncated")
        if zlib.crc32(data) != extent.crc:
            raise RamFileError(f"its contents changed (at {extent.place:#x})")
        _write_all(self._ram, memoryview(data), extent.offset)


def _share(work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call ``work`` with each of ``arguments``, in a few threads; raise the first error."""
    with ThreadPoolExecutor(_THREADS, "ram") as pool:
        for done in [pool.submit(work, *each) for each in arguments]:
            done.result()


def _data(ram: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of pieces of the RAM that may have data; tmpfs knows its holes."""
    size = os.fstat(ram).st_size
    offset = 0
    while offset < size:
        try:
            start = os.lseek(ram, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: no data from there on (lseek(2))
            return
        offset = os.lseek(ram, start, os.SEEK_HOLE)
        for at in range(start, offset, _EXTENT_MAX):
            yield at, min(_EXTENT_MAX, offset - at)


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of pages that are not all zeros, short gaps included."""
    start = end = -1
    for at in range(0, len(data), PAGE):
        if data[at : at + PAGE] == _ZEROS:
            continue
        if start >= 0 and at - end > _GAP_MAX:
            yield start, end
            start = -1
        if start < 0:
            start = at
        end = min(at + PAGE, len(data))
    if start >= 0:
        yield start, end


def _write_all(descriptor: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written
