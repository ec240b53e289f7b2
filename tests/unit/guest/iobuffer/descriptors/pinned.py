# SPDX-License-Identifier: Apache-2.0
"""Pages of this process, and a pinner that keeps account of them."""

from __future__ import annotations

import ctypes
import mmap
import random

from dma_rehearsal.guest.iobuffer.base import interfaces
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOCannotWireError,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment


class Pins:
    """A pinner: physical page = virtual page + 1 TiB, every second one apart."""

    def __init__(self) -> None:
        self.open: list[tuple[int, int, bool]] = []
        self.refuse = False

    def pin(self, address: int, length: int, *, write: bool = True) -> interfaces.Pinned:
        if self.refuse:
            raise IOCannotWireError("full", address=address, length=length)
        entry = address, length, write
        self.open.append(entry)
        pins = self

        class Pin:
            def segments(self) -> list[Segment]:
                found, at = [], address
                while at < address + length:
                    size = min(address + length - at, PAGE - at % PAGE)
                    found.append((at * 2 - at % PAGE, size))
                    at += size
                return found

            def close(self) -> None:
                pins.open.remove(entry)

        return Pin()


class Area:
    """Pages of this process: shared or private."""

    def __init__(self, pages: int, flags: int = mmap.MAP_SHARED) -> None:
        self.map = mmap.mmap(-1, pages * PAGE, flags | mmap.MAP_ANONYMOUS)
        self.map[:] = random.Random(pages).randbytes(pages * PAGE)
        hold = (ctypes.c_ubyte * 1).from_buffer(self.map)
        self.address = ctypes.addressof(hold)
        del hold
