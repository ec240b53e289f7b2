"""Copies of guest memory that the model compares with later: snapshots and announcements.

What the model itself changes in memory enters them, so that a difference is someone else's store.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from .differences import runs


@dataclass(slots=True)
class _Copy:
    backing: Hashable
    start: int
    data: bytearray

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Copies:
    """Copies of ranges that do not overlap."""

    def __init__(self) -> None:
        self._copies: list[_Copy] = []

    def __len__(self) -> int:
        return len(self._copies)

    def put(self, backing: Hashable, start: int, data: bytes) -> None:
        """Keep ``data`` as the range's copy, instead of what was kept of it."""
        self.drop(backing, start, len(data))
        self._copies.append(_Copy(backing, start, bytearray(data)))

    def patch(self, backing: Hashable, start: int, data: bytes) -> None:
        """Enter a change of memory into what is kept of the range."""
        for copy, first, last in self._overlaps(backing, start, start + len(data)):
            copy.data[first - copy.start : last - copy.start] = data[first - start : last - start]

    def drop(self, backing: Hashable, start: int, length: int) -> None:
        """Forget the range; what is kept around it stays."""
        for copy, first, last in list(self._overlaps(backing, start, start + length)):
            self._copies.remove(copy)
            if copy.start < first:
                self._copies.append(_Copy(backing, copy.start, copy.data[: first - copy.start]))
            if last < copy.end:
                self._copies.append(_Copy(backing, last, copy.data[last - copy.start :]))

    def differences(
        self, backing: Hashable, start: int, data: bytes | bytearray
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield each run of bytes in which ``data`` is not what was kept: offset, kept, found."""
        expected = bytearray(data)
        for copy, first, last in self._overlaps(backing, start, start + len(data)):
            kept = copy.data[first - copy.start : last - copy.start]
            expected[first - start : last - start] = kept
        for low, high in runs(expected, data):
            yield start + low, bytes(expected[low:high]), bytes(data[low:high])

    def _overlaps(
        self, backing: Hashable, start: int, end: int
    ) -> Iterator[tuple[_Copy, int, int]]:
        for copy in self._copies:
            if copy.backing == backing and copy.start < end and start < copy.end:
                yield copy, max(copy.start, start), min(copy.end, end)
