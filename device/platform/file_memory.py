# SPDX-License-Identifier: Apache-2.0
"""Guest RAM for the cache model: bytes by the file that holds them, by any mapping.

A file stays mapped while a buffer in it is tracked, so that a command or another function's DMA
reaches a buffer's lines whatever its own client has mapped. Nothing else is kept, so what a client
can make this process hold is what it tracks, and a descriptor for each file of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from dma_rehearsal.device.cache_model.masks import runs
from dma_rehearsal.device.cache_model.names import MAX_FILES, TooMuch
from dma_rehearsal.device.vfio_user.client_memory import FileView, View
from dma_rehearsal.device.vfio_user.errors import Unmapped
from dma_rehearsal.device.vfio_user.model import FileRange


class MemoryGone(Unmapped):
    """The client has cut a file in which a line lies; ``address`` is the offset in that file."""


class FileMemory:
    """A ``GuestMemory`` of the ranges that are lent for one operation, or kept for a buffer."""

    def __init__(self) -> None:
        self._lent: dict[Hashable, FileRange] = {}
        self._kept: dict[Hashable, FileRange] = {}
        self._users: Counter[Hashable] = Counter()
        self._files: dict[int, set[Hashable]] = {}  # of each buffer

    @contextmanager
    def lent(self, file_ranges: Sequence[FileRange]) -> Iterator[None]:
        """Let files be reached within the ``with``."""
        self._lent = {file_range.file: file_range for file_range in file_ranges}
        try:
            yield
        finally:
            self._lent = {}

    def check_room(self, file_ranges: Sequence[FileRange]) -> None:
        """Raise TooMuch when `keep` would keep more files than may be."""
        count = len(self._kept.keys() | {file_range.file for file_range in file_ranges})
        if count > MAX_FILES:
            raise TooMuch(f"buffers in {count} files; at most {MAX_FILES}")

    def keep(self, tag: int, file_ranges: Sequence[FileRange]) -> None:
        """Let a buffer's files be reached until ``drop``."""
        files = {file_range.file: file_range for file_range in file_ranges}
        self._files[tag] = set(files)
        self._users.update(files.keys())
        self._kept.update(files)

    def drop(self, tag: int) -> None:
        """Let go of a buffer's files."""
        for file in self._files.pop(tag, set()):
            self._users[file] -= 1
            if not self._users[file]:
                del self._users[file], self._kept[file]

    def read(self, backing: Hashable, offset: int, length: int) -> bytes:
        """Return a copy of bytes; MemoryGone."""
        with _gone(offset):
            return bytes(self._view(backing, offset, length))

    def write(self, backing: Hashable, offset: int, data: bytes) -> None:
        """Store bytes; MemoryGone."""
        with _gone(offset):
            self._view(backing, offset, len(data))[:] = data

    def write_where(self, backing: Hashable, offset: int, data: bytes, mask: bytes) -> None:
        """Store the bytes where ``mask`` is not 0, and none between them; MemoryGone."""
        with _gone(offset):
            view = self._view(backing, offset, len(data))
            if isinstance(view, FileView):
                view.write_runs(data, runs(mask))
                return
            for first, last in runs(mask):
                view[first:last] = data[first:last]

    def _view(self, backing: Hashable, offset: int, length: int) -> View:
        file_range, end = self._lent.get(backing) or self._kept.get(backing), offset + length
        if file_range is None or end > len(file_range.memory) or not file_range.holds(end):
            raise Unmapped(offset)
        return file_range.memory[offset:end]


@contextmanager
def _gone(offset: int) -> Iterator[None]:
    """Say by the offset in its file which memory is not there."""
    try:
        yield
    except Unmapped as error:
        raise MemoryGone(offset) from error
