# SPDX-License-Identifier: Apache-2.0
"""The DMAs in flight, as the devices' drivers report them.

A driver registers itself; memory that a DMA in flight uses is neither completed nor released.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class InFlight:
    """A DMA that has not ended: bus address and length in bytes, and its device, for messages."""

    address: int
    length: int
    description: str


class DmaMaster(Protocol):
    """A driver of a device that does DMA."""

    def in_flight(self) -> Iterable[InFlight]:
        """Return the DMAs that have been started and have not ended."""


_masters: weakref.WeakSet[DmaMaster] = weakref.WeakSet()


def register(master: DmaMaster) -> None:
    """Ask ``master`` from now on, for as long as it lives."""
    _masters.add(master)


def unregister(master: DmaMaster) -> None:
    """Ask it no more."""
    _masters.discard(master)


def in_flight(segments: Iterable[tuple[int, int]]) -> list[str]:
    """Describe the DMAs in flight that touch one of the segments (bus address, length)."""
    parts = list(segments)
    return [
        dma.description
        for master in list(_masters)
        for dma in master.in_flight()
        if any(dma.address < at + size and at < dma.address + dma.length for at, size in parts)
    ]
