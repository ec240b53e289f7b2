# SPDX-License-Identifier: Apache-2.0
"""The exerciser's descriptor ring: limits, flags, status, and a descriptor in guest memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

RING_SIZE_MIN = 2
RING_SIZE_MAX = 4096  # descriptors; bounds the work of one doorbell, together with:
RING_BYTES_MAX = 64 << 20
# The same while the platform's cache model is on, where each descriptor counts as so many bytes at
# least: there its cost is that of its lines.
RING_BYTES_CACHED_MAX = 16 << 20
RING_BYTES_CACHED_LEAST = 16 << 10
RING_ENABLE = 1 << 0  # RING_CONTROL; from 0 to 1 it latches base and size, and starts at index 0
RING_REFUSED_INDEX = 0xFFFF  # RING_REFUSED: [15:0] the index of the transfer's first descriptor
RING_REFUSED_REASON_SHIFT = 16  # [31:16] DmaReason; the register reads 0 when none was refused


class RingFlag(IntFlag):
    """Flags of a descriptor."""

    WRITE_MEMORY = 1 << 0  # as in DMACTL
    CHAIN = 1 << 1  # the next descriptor is a further segment of this transfer
    INTERRUPT = 1 << 2  # send RING_VECTOR's MSI-X when the transfer has ended
    NO_SNOOP = 1 << 3


class RingStatus(IntEnum):
    """RING_STATUS: what came of the last doorbell. RING_COMPLETION says how far it came.

    REFUSED halts the ring, as an error halts the queue of an IOAT or an AXI DMA engine:
    RING_COMPLETION stays at the transfer that was refused, of which nothing moved and behind which
    nothing was run, and RING_REFUSED says which and why. Its interrupt is sent when any descriptor
    of the doorbell asks for one, so that a driver that waits for a later one wakes. Each doorbell
    then reads REFUSED and moves nothing until software turns the ring off and on again, which
    begins at index 0.
    """

    OK = 0
    DISABLED = 1
    BAD_SIZE = 2  # RING_SIZE is not RING_SIZE_MIN to RING_SIZE_MAX
    BAD_INDEX = 3  # the doorbell's index is not below RING_SIZE
    UNREACHABLE = 4  # descriptors cannot be read; a record says why
    BUDGET = 5  # as many bytes moved as a doorbell may: ring again with the same index to go on
    BUSY = 6  # not done: memory that only the device's client reaches takes its time
    ABORTED = 7  # bus mastering ended meanwhile; the transfer under way has a record
    REFUSED = 8  # a transfer was refused, and the ring halted


@dataclass(frozen=True, slots=True)
class RingDescriptor:
    """32 bytes in guest memory: one segment of a transfer.

    ``address`` is a bus address; ``length`` and ``offset`` (into the device's buffer) in bytes.
    """

    address: int
    length: int
    offset: int
    flags: int

    STRUCT = struct.Struct("<QIII12x")

    def pack(self) -> bytes:
        """Return the descriptor's 32 bytes."""
        return self.STRUCT.pack(self.address, self.length, self.offset, self.flags)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> RingDescriptor:
        """Read a descriptor's 32 bytes; any bytes are one."""
        return cls(*cls.STRUCT.unpack(data))
