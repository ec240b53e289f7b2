# SPDX-License-Identifier: Apache-2.0
"""The device's side of a split virtqueue in guest memory (VIRTIO 1.2, 2.7)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from dma_rehearsal.device.endpoints.bus import Bus

Segments = list[tuple[int, int]]
"""Bus addresses and bytes."""

INDIRECT_DESC, EVENT_IDX = 1 << 28, 1 << 29  # features (6)
_DESCRIPTOR = struct.Struct("<QIHH")  # address, bytes, flags, next
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1


class RingError(Exception):
    """The driver's rings break a rule of the specification."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A buffer of the driver: its parts for the device to read, then those for it to write."""

    head: int
    readable: Segments
    writable: Segments


@dataclass(slots=True)
class Virtqueue:
    """A queue of ``size`` entries, whose three parts are at bus addresses.

    ``features`` are those of the driver. `RingError` for what no driver may do, DmaRefused where
    memory refuses. What the driver has in memory is copied once.
    """

    bus: Bus
    features: int
    size: int
    vector: int
    descriptors: int
    driver: int
    device: int
    taken: int = 0
    used: int = 0
    told: int = 0
    posted: bool = field(default=False, init=False)  # that the device goes on with it

    def waiting(self) -> int:
        """Return how many buffers are available; ask the driver to tell of the next one."""
        if self.features & EVENT_IDX:
            self.bus.write(self.device + 4 + 8 * self.size, struct.pack("<H", self.taken))
        count = self._word(self.driver + 2) - self.taken & 0xFFFF
        if count > self.size:
            raise RingError(f"{count} buffers are available in a queue of {self.size}")
        return count

    def take(self) -> Chain:
        """Return the next buffer that is available."""
        head = self._word(self.driver + 4 + 2 * (self.taken % self.size))
        self.taken = self.taken + 1 & 0xFFFF
        chain = Chain(head, [], [])
        for address, length, flags in self._descriptors(head):
            if not flags & _WRITE and chain.writable:
                raise RingError("a part to read is behind one to write")
            (chain.writable if flags & _WRITE else chain.readable).append((address, length))
        return chain

    def give_back(self, chain: Chain, written: int) -> None:
        """Put a buffer into the used ring, with the number of bytes that were written to it."""
        place = self.device + 4 + 8 * (self.used % self.size)
        self.bus.write(place, struct.pack("<II", chain.head, written))
        self.used = self.used + 1 & 0xFFFF
        self.bus.write(self.device + 2, struct.pack("<H", self.used))

    def wants_interrupt(self) -> bool:
        """Return whether the driver wants to be told of what was given back since the last call."""
        told, self.told = self.told, self.used
        if not self.features & EVENT_IDX:
            return told != self.used and not self._word(self.driver) & _NO_INTERRUPT
        event = self._word(self.driver + 4 + 2 * self.size)
        return self.used - event - 1 & 0xFFFF < self.used - told & 0xFFFF

    def _word(self, address: int) -> int:
        return int.from_bytes(self.bus.read(address, 2), "little")

    def _descriptors(self, head: int) -> Iterator[tuple[int, int, int]]:
        """Yield the descriptors of a chain, as many as the queue has entries at most."""
        table, entries, index = self.descriptors, self.size, head
        for _ in range(1 + self.size):  # one that names an indirect table comes on top
            if index >= entries:
                raise RingError(f"descriptor {index} of a table of {entries}")
            data = self.bus.read(table + _DESCRIPTOR.size * index, _DESCRIPTOR.size)
            address, length, flags, index = _DESCRIPTOR.unpack(data)
            if flags & _INDIRECT:
                nested = table != self.descriptors or flags & _NEXT
                if nested or length % _DESCRIPTOR.size or not self.features & INDIRECT_DESC:
                    raise RingError(f"an indirect table of {length} bytes, or a chain behind it")
                table, entries, index = address, length // _DESCRIPTOR.size, 0
                continue
            yield address, length, flags
            if not flags & _NEXT:
                return
        raise RingError(f"a chain of more than {self.size} descriptors")
