# SPDX-License-Identifier: Apache-2.0
"""A carve-out in a file that forked processes share, each with pools of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.unit.guest.memory_pool import FilePool

MIB: Final = 1 << 20
ZONE: Final = Zone("main", 0x0C00_0000, 4 * MIB)

Remake = Callable[[], "SharedPool"]


class SharedPool(FilePool):
    """A carve-out in a file that forked processes share."""

    def __init__(self, fd: int, folder: Path, zone: Zone = ZONE) -> None:
        super().__init__(zone, folder, fd, origin=zone.start)
