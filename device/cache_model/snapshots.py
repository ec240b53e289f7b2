# SPDX-License-Identifier: Apache-2.0
"""Snapshots of guest memory that the model compares with later: snapshots and announcements.

What the model itself changes in memory enters them, so that a difference is someone else's store.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from sys import getsizeof

from dma_rehearsal.device.cache_model.masks import blended

_GAP = 4096  # bytes: copies that are no further apart are kept as one
COST = 1536  # bytes that one copy takes besides its data, at most


@dataclass(slots=True)
class Held:
    """Bytes that all copies of one model take."""

    size: int = 0


@dataclass(slots=True, eq=False)
class _Copy:
    """``kept``: the mask of the bytes that count; None while all of them do."""

    start: int
    data: bytearray
    kept: bytearray | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    @property
    def size(self) -> int:
        """Return the bytes that it takes: an array that grew or shrank may have room to spare."""
        return COST + getsizeof(self.data) + (0 if self.kept is None else getsizeof(self.kept))


class Snapshots:
    """Snapshots of ranges that do not overlap. There are few, however many ranges are put.

    ``held`` counts what they take.
    """

    def __init__(self, held: Held | None = None) -> None:
        self._copies: dict[Hashable, list[_Copy]] = {}
        self._held = held or Held()

    def __len__(self) -> int:
        return sum(map(len, self._copies.values()))

    @staticmethod
    def most(length: int) -> int:
        """Return the bytes that one more range of ``length`` takes, at most."""
        return COST + 2 * (length + 2 * _GAP) * 9 // 8

    def put(self, backing: Hashable, start: int, data: bytes) -> None:
        """Keep ``data`` as the range's copy, instead of what was kept of it."""
        copies = self._copies.setdefault(backing, [])
        end = start + len(data)
        first = last = bisect_left(copies, start - _GAP, key=_end)
        while last < len(copies) and copies[last].start <= end + _GAP:
            last += 1
        near = copies[first:last]
        self._held.size -= sum(each.size for each in near)
        if near and near[0].start <= start:
            whole = near[0]
        else:
            whole = _Copy(start, bytearray(data))
        for each in near:
            if each is not whole:
                _enter(whole, each.start, each.data, each.kept)
        _enter(whole, start, data, None)
        if whole.kept is not None and whole.kept.find(0x00) < 0:
            whole.kept = None
        copies[first:last] = [whole]
        self._held.size += whole.size

    def patch(self, backing: Hashable, start: int, data: bytes, mask: bytes | None = None) -> None:
        """Enter a change of memory into what is kept of the range: where ``mask`` is set."""
        for copy, first, last in self._overlaps(backing, start, start + len(data)):
            place, part = _slice(copy, first, last), data[first - start : last - start]
            if mask is not None:
                part = blended(copy.data[place], part, mask[first - start : last - start])
            copy.data[place] = part

    def drop(self, backing: Hashable, start: int, length: int) -> None:
        """Forget the range; what is kept around it stays."""
        for copy, first, last in list(self._overlaps(backing, start, start + length)):
            self._held.size -= copy.size
            if first == copy.start:
                _cut_head(copy, last - first)
            elif last == copy.end:
                del copy.data[first - copy.start :]
                if copy.kept is not None:
                    del copy.kept[first - copy.start :]
            else:
                if copy.kept is None:
                    copy.kept = bytearray(b"\xff") * len(copy.data)
                copy.kept[_slice(copy, first, last)] = bytes(last - first)
            if copy.data and (copy.kept is None or copy.kept.find(0xFF) >= 0):
                self._held.size += copy.size
            else:
                self._copies[backing].remove(copy)
        if not self._copies.get(backing, True):
            del self._copies[backing]

    def clear(self) -> None:
        """Forget all."""
        self._held.size -= sum(each.size for some in self._copies.values() for each in some)
        self._copies.clear()

    def expected(self, backing: Hashable, start: int, data: bytes) -> bytes:
        """Return ``data`` with what was kept of its range in place of what it has there."""
        found: bytearray | None = None
        for copy, first, last in self._overlaps(backing, start, start + len(data)):
            place, part = _slice(copy, first, last), slice(first - start, last - start)
            kept: bytes | bytearray = copy.data[place]
            if copy.kept is not None:
                kept = blended(data[part], kept, bytes(copy.kept[place]))
            if kept != data[part]:
                found = found or bytearray(data)
                found[part] = kept
        return data if found is None else bytes(found)

    def _overlaps(
        self, backing: Hashable, start: int, end: int
    ) -> Iterator[tuple[_Copy, int, int]]:
        copies = self._copies.get(backing, [])
        for index in range(bisect_left(copies, start + 1, key=_end), len(copies)):
            copy = copies[index]
            if end <= copy.start:
                return
            yield copy, max(copy.start, start), min(copy.end, end)


def _end(copy: _Copy) -> int:
    return copy.end


def _slice(copy: _Copy, first: int, last: int) -> slice:
    return slice(first - copy.start, last - copy.start)


def _cut_head(copy: _Copy, length: int) -> None:
    del copy.data[:length]
    if copy.kept is not None:
        del copy.kept[:length]
    copy.start += length


def _enter(
    whole: _Copy, start: int, data: bytes | bytearray, kept: bytes | bytearray | None
) -> None:
    """Enter a range that begins no earlier than ``whole``, which grows where it ends earlier."""
    end = start + len(data)
    gap = start - whole.end
    if gap > 0 or kept is not None:
        whole.kept = whole.kept or bytearray(b"\xff") * len(whole.data)
    if end > whole.end:
        grown = end - whole.end
        whole.data += bytes(grown)
        if whole.kept is not None:
            whole.kept += bytes(grown)
    place = _slice(whole, start, end)
    whole.data[place] = data
    if whole.kept is not None:
        whole.kept[place] = b"\xff" * len(data) if kept is None else kept
