# SPDX-License-Identifier: Apache-2.0
"""The device of the piece rings_freed_early."""

import struct

from dma_rehearsal.device.endpoints import DmaRefused
from examples.museum.engine import RING_MAX, Engine, Reg
from examples.virtio_blk.virtqueue import Chain, RingError, Virtqueue

AVAILABLE, USED = 0x200, 0x800  # from the start of the ring's memory
HEADER = struct.Struct("<II")  # FETCH, STORE or FLUSH, and the offset in the device's memory
FETCH, STORE, FLUSH = 1, 2, 3


class Device(Engine):
    """1234:0dab with a split virtqueue. RING_SIZE begins it, 0 resets it. RING_TAIL is a doorbell.

    A request is a header, data, and a status byte.
    """

    queue: Virtqueue | None = None

    def on_reset(self) -> None:
        """Forget the queue, too."""
        super().on_reset()
        self.queue = None

    def write_ring_size(self, value: int) -> None:
        """Begin a queue, or let go of it."""
        start = self.registers(0).pair(Reg.RING_LO, Reg.RING_HI)
        parts = start, start + AVAILABLE, start + USED
        self.queue = Virtqueue(self.bus, 0, value, 0, *parts) if 0 < value <= RING_MAX else None

    def write_ring_tail(self, _value: int) -> None:
        """Carry out what is available."""
        queue = self.queue
        if queue is None:
            return
        try:
            for _ in range(queue.waiting()):
                chain = queue.take()
                queue.give_back(chain, self.carry_out(chain))
            if queue.wants_interrupt():
                self.end(True)
        except (RingError, DmaRefused):
            self.end(False)

    def carry_out(self, chain: Chain) -> int:
        """Carry out a request; return the bytes that were written."""
        if not chain.readable or not chain.writable or chain.readable[0][1] != HEADER.size:
            raise RingError("a request without a header or a status byte")
        header, *to_read = chain.readable
        *to_write, status = chain.writable
        kind, offset = HEADER.unpack(self.fetch(*header))
        done = kind in (FETCH, STORE, FLUSH)
        for address, length in (*to_read, *to_write):
            done = done and self.move(address, length, offset, store=kind == STORE)
            offset += length
        self.store(status[0], bytes([not done]))
        return 1 + sum(length for _, length in to_write) * done
