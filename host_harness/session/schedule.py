# SPDX-License-Identifier: Apache-2.0
"""Which of several VMs runs which test."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Schedule(Generic[Item]):
    """Shares ``items`` among ``workers``; each is given to one of them, once.

    A worker has a run of neighbours, for which fixtures of modules stay up; workers that are beside
    each other go towards each other. One that has nothing left takes half of the longest run that
    there is, from its far end.
    """

    def __init__(self, items: Sequence[Item], workers: int) -> None:
        bounds = [len(items) * number // workers for number in range(workers + 1)]
        shares = [items[start:end] for start, end in pairwise(bounds)]
        self._left = [
            deque(share if number % 2 == 0 else reversed(share))
            for number, share in enumerate(shares)
        ]
        self._promised: list[Item | None] = [self._pop(number) for number in range(workers)]

    def take(self, worker: int) -> tuple[Item, Item | None] | None:
        """Return what ``worker`` runs now, and what it will be given next; None: there is no more.

        A test needs to know its next one, for which fixtures stay up; so that is promised.
        """
        item = self._promised[worker]
        if item is None:
            return None
        self._promised[worker] = following = self._pop(worker)
        return item, following

    def _pop(self, worker: int) -> Item | None:
        own = self._left[worker]
        if not own:
            longest = max(self._left, key=len)
            own.extend(longest.pop() for _ in range((len(longest) + 1) // 2))
        return own.popleft() if own else None
