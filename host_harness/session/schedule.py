# SPDX-License-Identifier: Apache-2.0
"""The order of a run's tests, and their distribution over several VMs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in the order that ``seed`` draws; the same one on every machine."""
    return random.Random(f"order {seed}").sample(items, len(items))


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """Return ``count`` of the items, or all if there are fewer, as ``seed`` draws them."""
    return random.Random(f"sample {seed}").sample(items, min(count, len(items)))


class Schedule(Generic[Item]):
    """Distributes ``items`` over ``workers``; each item goes to one worker, once.

    A worker has a run of neighbouring tests, for which fixtures of modules stay up; adjacent
    workers work towards each other. One that has nothing left takes half of the longest remaining
    run, from its far end.
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
        """Return the item that ``worker`` runs now and the one after it; None: nothing is left.

        pytest needs to know the next test, for which fixtures stay up; so it is fixed in advance.
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
