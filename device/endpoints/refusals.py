# SPDX-License-Identifier: Apache-2.0
"""The newest requests that were refused, of all functions on an interconnect."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dma_rehearsal.device.layout import REFUSED_CAPACITY, DmaDirection, DmaReason


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


class Refusals:
    """The newest REFUSED_CAPACITY, and the count of all. Under the interconnect's lock."""

    def __init__(self) -> None:
        self._kept: deque[RefusedRequest] = deque(maxlen=REFUSED_CAPACITY)
        self.count = 0

    def add(self, refused: RefusedRequest) -> None:
        """Keep one, which takes the place of the oldest when there is no room."""
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
