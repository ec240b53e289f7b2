# SPDX-License-Identifier: Apache-2.0
"""All tracked lines, found by their place in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator

from dma_rehearsal.device.cache_model.lines import Extent
from dma_rehearsal.device.cache_model.names import PIECE_COST


class Tracked:
    """All extents, by backing and offset. They never overlap, and begin and end at lines."""

    def __init__(self) -> None:
        self._extents: dict[Hashable, list[Extent]] = {}
        self.size = 0  # bytes of guest memory
        self.retained = 0  # bytes that their state takes

    def __len__(self) -> int:
        return sum(map(len, self._extents.values()))

    def pieces(
        self, backing: Hashable, start: int, end: int
    ) -> Iterator[tuple[Extent | None, int, int]]:
        """Yield [start, end) in order, cut where extents begin and end; None is not tracked."""
        extents = self._extents.get(backing, [])
        index = max(bisect_right(extents, start, key=_start) - 1, 0)
        while start < end:
            extent = extents[index] if index < len(extents) else None
            if extent is None or end <= extent.start:
                yield None, start, end
                return
            if start < extent.start:
                yield None, start, extent.start
                start = extent.start
            if start < extent.end:
                last = min(end, extent.end)
                yield extent, start, last
                start = last
            index += 1

    def cut(self, backing: Hashable, offset: int) -> None:
        """Make an edge between two extents at ``offset``, where one holds it."""
        extents = self._extents.get(backing, [])
        index = bisect_right(extents, offset, key=_start) - 1
        if index >= 0 and extents[index].start < offset < extents[index].end:
            extents.insert(index + 1, extents[index].split(offset))
            for buffer in extents[index].buffers:
                buffer.pieces += 1
            self.retained += PIECE_COST

    def add(self, extent: Extent) -> None:
        """Add lines that were not tracked."""
        extents = self._extents.setdefault(extent.backing, [])
        extents.insert(bisect_right(extents, extent.start, key=_start), extent)
        self.size += extent.size
        self.retained += extent.retained

    def remove(self, extent: Extent) -> None:
        """Forget lines."""
        extents = self._extents[extent.backing]
        del extents[bisect_right(extents, extent.start, key=_start) - 1]
        self.size -= extent.size
        self.retained -= extent.retained
        if not extents:
            del self._extents[extent.backing]

    def join(self, backing: Hashable, start: int, end: int) -> None:
        """Join what is alike again at and between two offsets."""
        extents = self._extents.get(backing, [])
        index = max(bisect_right(extents, start, key=_start) - 2, 0)
        while index + 1 < len(extents) and extents[index].start < end:
            if extents[index].joins(extents[index + 1]):
                extents[index].join(extents.pop(index + 1))
                for buffer in extents[index].buffers:
                    buffer.pieces -= 1
                self.retained -= PIECE_COST
            else:
                index += 1


def _start(extent: Extent) -> int:
    return extent.start
