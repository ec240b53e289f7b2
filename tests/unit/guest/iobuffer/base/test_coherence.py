# SPDX-License-Identifier: Apache-2.0
"""The maintainer of the caches, and its replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dma_rehearsal.guest.iobuffer.base import coherence, interfaces
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.memory_pool import make


class Recorder(coherence.CoherentBus):
    """Says what it is told, by its name."""

    line = 64

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def track(self, buffer: interfaces.BufferDescriptor) -> Callable[[], None]:
        self.told.append(f"{self.name} tracks {buffer.getCapacity()}")
        return lambda: self.told.append(f"{self.name} ends")

    def sync_for_device(
        self,
        memory: interfaces.Descriptor,  # noqa: ARG002
        offset: int,
        length: int,
        direction: IODirection,  # noqa: ARG002
    ) -> None:
        self.told.append(f"{self.name} syncs {offset}+{length}")


@pytest.fixture
def before() -> Iterator[coherence.Coherence]:
    old = dma_platform.coherence
    yield old
    dma_platform.coherence = old


@pytest.mark.usefixtures("main")
def test_what_lives_is_synced_by_the_new_one_and_untracked_by_the_old_one(
    before: coherence.Coherence,
) -> None:
    """So a model that was turned on too late can say so, and the old one forgets what it knew."""
    told: list[str] = []
    first, second = Recorder("first", told), Recorder("second", told)
    assert dma_platform.coherence is before
    dma_platform.coherence = first
    with make(128, 64) as old:
        dma_platform.coherence = second
        with make(192, 64) as new:
            old.sync_for_device(0, 64)
            new.sync_for_device(64, 128)
    assert told == [
        "first tracks 128",
        "second tracks 192",
        "second syncs 0+64",
        "second syncs 64+128",
        "second ends",
        "first ends",
    ]
