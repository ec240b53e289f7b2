# SPDX-License-Identifier: Apache-2.0
"""The fields of a DMA's record: direction, attributes, and the reason of a refusal."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class DmaDirection(IntEnum):
    """RECORD_DIRECTION, named from the device's side of the bus."""

    READ_MEMORY = 0
    WRITE_MEMORY = 1


class DmaAttribute(IntFlag):
    """RECORD_ATTRIBUTES: what was asked for, and what left the device."""

    NO_SNOOP_ASKED = 1 << 0
    NO_SNOOP = 1 << 1
    PASID = 1 << 2
    USE_ATC = 1 << 3
    PRIVILEGED = 1 << 4
    INSTRUCTION = 1 << 5
    RING = 1 << 6
    NON_COHERENT = 1 << 7  # the device's profile says so; not snooped either way
    AT_MASK = 3 << 8  # AddressType


class DmaReason(IntEnum):
    """RECORD_REASON: exactly why a DMA was refused."""

    NONE = 0
    BUFFER_RANGE = 1  # past the end of the device's buffer
    BUS_MASTER_OFF = 2
    UNMAPPED = 3
    READ_ONLY = 4  # the DMA map does not let a device write there
    RESERVED_ADDRESS_TYPE = 5
    ADDRESS_WRAP = 6  # address + length passes 2**64
    NO_ATC_ENTRY = 7
    CLIENT_ERROR = 8  # the DMA map's owner answered with an error
    OWN_BAR = 9  # the device's own registers or memory
    ADDRESS_BITS = 10  # a constraint of BAR3, and the three below
    ALIGNMENT = 11
    MAX_SEGMENT = 12
    BOUNDARY = 13
    MAX_SEGMENTS = 14
    RESET = 15  # a reset ended it in flight
    CLIENT_GONE = 16  # its client ended it in flight
    BAD_DESCRIPTOR = 17  # unknown flags, directions that differ in one transfer, or no bytes
    UNFINISHED_CHAIN = 18  # the ring's last descriptor announces another one
    TRANSFER_SIZE = 19  # more bytes in one transfer than a doorbell may move: see RING_BYTES_MAX
    LENGTH_ALIGNMENT = 20  # a constraint of BAR3, and the one below
    MAX_TRANSFER = 21
    PRP = 22  # DmaRule.PRP: a segment in the middle of a page, or a gap
    INJECTED = 23  # software wants it to fail: ErrorInjection.CORRUPT_DMA
    ATOMIC_DISABLED = 24  # AtomicOp Requester Enable is clear
    ATOMIC_UNSUPPORTED = 25  # what is at the address takes no AtomicOp of this size
    # The platform's protection unit, by the first byte at fault:
    PROTECTION_OUTSIDE = 32  # the first of the request, and no grant covers it
    PROTECTION_PAST_END = 33  # a later one, and no grant covers it
    PROTECTION_DIRECTION = 34  # grants cover it, none of them for this direction
    PROTECTION_FUNCTION = 35  # grants cover it, all of them for other functions
    # The platform's cache model:
    CACHE_UNTRACKED = 40  # a no-snoop access in strict mode to a line that no buffer tracks
    CACHE_SCATTERED = 41  # more pieces with different buffers than one access may have
