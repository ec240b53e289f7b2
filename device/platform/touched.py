# SPDX-License-Identifier: Apache-2.0
"""Which bytes of memory devices have touched, and by which request last. A model, without I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from dma_rehearsal.device.layout import GrantDirection

PIECES_MAX = 16384  # that are kept of each direction


class _Pieces:
    """Ranges of addresses with the number of the last request there, 0 for none."""

    def __init__(self) -> None:
        self._edges = [0]
        self._last = [0]  # from each edge to the next

    def __len__(self) -> int:
        return len(self._edges)

    def note(self, start: int, end: int, sequence: int) -> None:
        """Note that a request touched [start, end)."""
        first = bisect_left(self._edges, start)
        stop = bisect_right(self._edges, end)
        after = self._last[stop - 1]  # what goes on behind it
        new = [(start, sequence), (end, after)]
        if first and self._last[first - 1] == sequence:
            del new[0]
        if after == sequence:
            del new[-1]
        self._edges[first:stop] = [edge for edge, _ in new]
        self._last[first:stop] = [last for _, last in new]

    def untouched(self, start: int, end: int, since: int) -> list[tuple[int, int]]:
        """Return the ranges (start, end) of [start, end) without a request after ``since``."""
        found: list[tuple[int, int]] = []
        index = bisect_right(self._edges, start) - 1
        while start < end:
            index += 1
            stop = min(end, self._edges[index]) if index < len(self._edges) else end
            if self._last[index - 1] <= since:
                if found and found[-1][1] == start:
                    start = found.pop()[0]
                found.append((start, stop))
            start = stop
        return found


class Touched:
    """The requests that passed, by the bytes that they touch. Under the interconnect's lock.

    It knows of requests after ``since``; of older ones when there was room for them.
    """

    def __init__(self, limit: int = PIECES_MAX) -> None:
        self._limit = limit
        self.restart(0)

    def restart(self, sequence: int) -> None:
        """Forget all; ``sequence`` is the newest request's number."""
        self.since = sequence
        self._pieces = {each: _Pieces() for each in GrantDirection}

    def note(self, address: int, length: int, sequence: int, *, write: bool) -> None:
        """Note a request of ``length`` bytes at a bus address."""
        if length <= 0:
            return
        pieces = self._pieces[GrantDirection.IN if write else GrantDirection.OUT]
        if len(pieces) + 2 > self._limit:
            self.restart(sequence - 1)
            pieces = self._pieces[GrantDirection.IN if write else GrantDirection.OUT]
        pieces.note(address, address + length, sequence)

    def untouched(
        self, address: int, length: int, directions: GrantDirection, since: int
    ) -> list[tuple[int, int]] | None:
        """Return the ranges (start, end) that no request after ``since`` touched.

        ``directions``: by device writes (IN), reads (OUT), or either. None: it is not known.
        """
        if since < self.since:
            return None
        left = [(address, address + length)]
        for direction in GrantDirection:
            if direction & directions:
                pieces = self._pieces[direction]
                left = [piece for each in left for piece in pieces.untouched(*each, since)]
        return left
