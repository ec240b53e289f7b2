# SPDX-License-Identifier: Apache-2.0
"""A carve-out in a file that forked processes share, each with pools of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool, Zone
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement
from tests.unit.guest.memory_pool import Window

MIB: Final = 1 << 20
ZONE: Final = Zone("main", 0x0C00_0000, 4 * MIB)

Remake = Callable[[], "SharedPool"]


class SharedPool(CarveoutPool):
    """A carve-out in a file that forked processes share."""

    def __init__(self, fd: int, folder: Path, zone: Zone = ZONE) -> None:
        super().__init__(zone, locks=folder)
        self._file = fd

    def map(
        self,
        extent: Extent,
        mode: CacheMode,  # noqa: ARG002
        placement: MapPlacement = ANYWHERE,
    ) -> Mapping:
        return Mapping(self._file, extent.length, extent.address - self.zone.start, placement)

    def kernel_map(self, extent: Extent, mode: CacheMode) -> KernelMap:  # noqa: ARG002
        window: object = Window(self._file, extent.address - self.zone.start, extent.length)
        return window  # type: ignore[return-value]
