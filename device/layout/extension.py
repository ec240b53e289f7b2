# SPDX-License-Identifier: Apache-2.0
"""BAR3 of the exerciser: what Arm's layout lacks. This project's own."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Ext(IntEnum):
    """BAR3: what Arm's layout lacks. MAGIC, VERSION and FEATURES say what is there.

    RECORD_SELECT takes a sequence number (1 is the first DMA after reset); the RECORD_* registers
    then show that DMA while RECORD_VALID reads 1. The newest RECORD_CAPACITY records are kept;
    RECORD_LOST counts those that were overwritten.
    """

    MAGIC = 0x000
    VERSION = 0x004
    FEATURES = 0x008
    BUFFER_SIZE = 0x00C
    DMA_CRC32 = 0x010
    DMA_COUNT = 0x014
    RECORD_CAPACITY = 0x018
    RECORD_LOST = 0x01C
    RECORD_SELECT = 0x020
    RECORD_VALID = 0x024
    RECORD_TIME_LO = 0x030  # nanoseconds that the profile's device would take; modelled
    RECORD_TIME_HI = 0x034
    RECORD_SEQUENCE = 0x040
    RECORD_STATUS = 0x044
    RECORD_REASON = 0x048
    RECORD_ADDRESS_LO = 0x04C
    RECORD_ADDRESS_HI = 0x050
    RECORD_LENGTH = 0x054
    RECORD_MOVED = 0x058
    RECORD_DIRECTION = 0x05C
    RECORD_ATTRIBUTES = 0x060
    RECORD_OFFSET = 0x064
    RECORD_CRC32 = 0x068
    RECORD_SEGMENTS = 0x06C  # more than 1 only for a transfer of the ring
    RECORD_PASID = 0x070  # [19:0] as it left the device, [31] valid; modelled
    RECORD_REQUESTER_ID = 0x074  # [15:0] as it left the device, [31] valid; modelled
    RECORD_USED_LO = 0x078  # the first address that left the device; another is sloppy's
    RECORD_USED_HI = 0x07C
    ADDRESS_BITS = 0x080  # constraints; 0 is none. A write that would loosen one of the profile's
    # leaves that in force, and reads so
    ALIGNMENT = 0x084
    MAX_SEGMENT = 0x088
    BOUNDARY = 0x08C
    MAX_SEGMENTS = 0x090
    LENGTH_ALIGNMENT = 0x094
    MAX_TRANSFER = 0x098
    BOUNDARY_HI = 0x09C  # of the device's own limit, while BOUNDARY reads 0
    HOLD = 0x0A0
    STEP = 0x0A4
    HELD_MOVED = 0x0A8
    HELD_LEFT = 0x0AC
    ABORT_REASON = 0x0B0  # of the last DMA in flight that did not end by itself; outlives resets
    ABORT_MOVED = 0x0B4
    RING_BASE_LO = 0x0C0
    RING_BASE_HI = 0x0C4
    RING_SIZE = 0x0C8
    RING_CONTROL = 0x0CC
    RING_VECTOR = 0x0D0
    RING_DOORBELL = 0x0D4
    RING_COMPLETION = 0x0D8
    RING_STATUS = 0x0DC
    RING_TRANSFERS = 0x0E0  # that were done
    RING_REFUSED = 0x0E4  # the transfer that halted the ring: index and reason
    PROFILE = 0x100  # ProfileFlag
    PROFILE_CRC32 = 0x104  # of all that the profile says
    PROFILE_RULE = 0x108  # DmaRule
    LINE_SIZE = 0x10C  # bytes of a cache line
    LATENCY_NS = 0x110  # of each DMA; modelled
    BANDWIDTH_MB_S = 0x114  # 10**6 bytes a second, 0 = not modelled


EXT_MAGIC = 0x52414D44  # "DMAR" as bytes
EXT_VERSION = 0x0001_0003
RECORD_CAPACITY = 256
RECORD_FIELD_VALID = 1 << 31  # of RECORD_PASID and RECORD_REQUESTER_ID
HOLD_ON = 1 << 0


class ExtFeature(IntFlag):
    """FEATURES: which parts of BAR3 this device has."""

    CRC = 1 << 0
    RECORD = 1 << 1
    CONSTRAINTS = 1 << 2
    HOLD = 1 << 3
    RING = 1 << 4
    PROFILE = 1 << 5


class ProfileFlag(IntFlag):
    """PROFILE: what the device is like."""

    COHERENT = 1 << 0  # its accesses are snooped unless it asks for no snoop
    SLOPPY = 1 << 1  # cuts and wraps addresses in place of refusing them


class DmaRule(IntEnum):
    """PROFILE_RULE: a rule on a transfer's segments, beside the limits."""

    NONE = 0
    PRP = 1  # NVM Express: the first begins at any dword of a page, the others at a page's start


PRP_PAGE = 4096
