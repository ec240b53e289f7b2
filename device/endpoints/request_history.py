# SPDX-License-Identifier: Apache-2.0
"""The newest requests of a function, kept as they come: by the list.

A list of thousands passes in the time that it takes to make a record of some hundreds. So each is
made when somebody asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import overload

from dma_rehearsal.device.endpoints.dma import Attributes, Transaction
from dma_rehearsal.device.layout import DmaReason

_Ranges = Sequence[tuple[int, int]]


class History(Sequence[Transaction]):
    """The newest ``capacity`` requests, the oldest first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lists: deque[tuple[bool, _Ranges, Attributes, DmaReason]] = deque()
        self._held = 0

    def add(self, write: bool, ranges: _Ranges, attributes: Attributes, reason: DmaReason) -> None:
        """Add requests that differ by their range alone: (address, bytes) each."""
        if not ranges:
            return
        ranges = ranges[-self._capacity :]
        self._lists.append((write, ranges, attributes, reason))
        self._held += len(ranges)
        while self._held - len(self._lists[0][1]) >= self._capacity:
            self._held -= len(self._lists.popleft()[1])

    def clear(self) -> None:
        """Forget them all."""
        self._lists.clear()
        self._held = 0

    def __len__(self) -> int:
        return min(self._held, self._capacity)

    def __iter__(self) -> Iterator[Transaction]:
        surplus = self._held - len(self)
        for write, ranges, attributes, reason in self._lists:
            for address, length in ranges[surplus:]:
                yield Transaction(write, address, length, attributes, reason)
            surplus = 0

    @overload
    def __getitem__(self, index: int) -> Transaction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Transaction]: ...
    def __getitem__(self, index: int | slice) -> Transaction | list[Transaction]:
        return list(self)[index]
