# SPDX-License-Identifier: Apache-2.0
"""What a run's seed draws beside data: an order of its tests, and a sample of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in the order that ``seed`` draws; the same one on every machine."""
    return random.Random(f"order {seed}").sample(items, len(items))


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """Return ``count`` of the items, or all if there are fewer, as ``seed`` draws them."""
    return random.Random(f"sample {seed}").sample(items, min(count, len(items)))
