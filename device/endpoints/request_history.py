# SPDX-License-Identifier: Apache-2.0
"""The newest requests: all of one function, and the refused ones of all functions.

The requests of a function are kept by the list, as they come. A list of thousands passes in the
time that it takes to make a record of some hundreds, so a record is made when somebody asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from dma_rehearsal.device.endpoints.dma import Attributes, Ranges, Transaction
from dma_rehearsal.device.layout import REFUSED_CAPACITY, DmaDirection, DmaReason


class History(Sequence[Transaction]):
    """The newest ``capacity`` requests, the oldest first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lists: deque[tuple[bool, Ranges, Attributes, DmaReason]] = deque()
        self._held = 0

    def add(self, write: bool, ranges: Ranges, attributes: Attributes, reason: DmaReason) -> None:
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


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that was refused. ``sequence`` counts it among all requests.

    Of one in several ranges: the first address, and the bytes of all. ``byte`` is the first byte at
    fault.
    """

    sequence: int
    reason: DmaReason
    direction: DmaDirection
    address: int
    length: int
    byte: int


def keep_all(_refused: RefusedRequest) -> bool:
    """Keep every refused request."""
    return True


class RefusedRequests:
    """The newest REFUSED_CAPACITY refused requests of all functions, and the count of all.

    Under the interconnect's lock. ``keeps`` says which are kept and counted; a named fault of the
    platform gives another one.
    """

    def __init__(self) -> None:
        self.keeps: Callable[[RefusedRequest], bool] = keep_all
        self._kept: deque[RefusedRequest] = deque(maxlen=REFUSED_CAPACITY)
        self.count = 0

    def add(self, refused: RefusedRequest) -> None:
        """Keep one, which takes the place of the oldest when there is no room."""
        if self.keeps(refused):
            self.count += 1
            self._kept.append(refused)

    def clear(self) -> None:
        """Forget them all, and count anew."""
        self._kept.clear()
        self.count = 0

    def get(self, number: int) -> RefusedRequest | None:
        """Return a refusal by its number, if it is held; the first one is 1."""
        index = number - (self.count - len(self._kept)) - 1
        return self._kept[index] if 0 <= index < len(self._kept) else None
