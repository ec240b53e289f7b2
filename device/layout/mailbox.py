# SPDX-License-Identifier: Apache-2.0
"""The platform's mailbox: a batch of commands in guest memory that one read carries out.

The kernel module ``guest/dma_ops/`` writes the batches, in any context. Its header
``dma_rehearsal_mailbox.h`` is made from this module by ``python -m tests.mailbox_header``.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum

from dma_rehearsal.device.layout.cache import CACHE_MAX_OPERATION, CacheStatus
from dma_rehearsal.device.layout.protection import ProtectionStatus

MAIL_CAPACITY = 64  # records of one batch
# The work of one batch in the cache model, in bytes: those of each command, and 128 for each piece
# of its buffer. A withdrawal counts 128 for each grant. When so much is done, the rest is not.
MAIL_BUDGET = 4 << 20
MAIL_TRACK_MAX = CACHE_MAX_OPERATION  # bytes of one track; more is tracked in chunks
# Tags of the mailbox. Those of the cache model's registers are below, so that neither side can name
# what the other one tracks.
MAIL_TAG_BASE = 0x8000_0000
MAIL_TAG_END = 1 << 32
# A grant of the mailbox has the owner MAIL_OWNER_BASE | tag ("MAIL" in the upper half). Owners of
# processes have bit 63 set, so that these do not look like an owner whose process has ended.
MAIL_OWNER_BASE = 0x4D41_494C_0000_0000
MAIL_POSITION_SHIFT = 16  # MAIL_GO: [31:16] position + 1 of the record that failed
# VALUES[0] of an UNTRACK:
MAIL_GIVEN_UP = 1  # the driver wants nothing of what no sync has shown the CPU
MAIL_FORGOTTEN = 2  # a leak: the memory may be others' by now, so that nothing can be said of it
MAIL_CALLERS = 4
MAIL_VALUES = 2


class MailCommand(IntEnum):
    """The command of a record, and the fields that it uses. All others must be 0.

    TRACK, TRACK_UNCACHED and GRANT begin a mapping when their tag names nothing yet, and WITHDRAW
    and UNTRACK end it when they leave nothing. CALL and CALLERS say who asked for it. A mapping in
    several parts (segments, chunks, the driver's own memory behind a bounce buffer) has a tag for
    each track; VALUES[0] of such a part is the tag of the mapping, which begins first.
    """

    # TAG, ADDRESS (bus), LENGTH, DIRECTION; VALUES[1] names the only function that may use it
    # (FUNCTION_NAMED), or is 0. A tag may have several grants.
    GRANT = 1
    WITHDRAW = 2  # TAG: all grants of the tag
    TRACK = 3  # TAG, ADDRESS (bus), LENGTH, DIRECTION; a walk of VIRTUAL from ROOT with LEVELS
    TRACK_UNCACHED = 4  # TAG, ADDRESS (physical), LENGTH, DIRECTION; memory that nothing caches
    UNTRACK = 5  # TAG; VALUES[0] MAIL_GIVEN_UP for an unmap with DMA_ATTR_SKIP_CPU_SYNC
    SYNC_FOR_DEVICE = 6  # TAG, OFFSET, LENGTH, DIRECTION (0: the mapping's own)
    SYNC_FOR_CPU = 7  # as SYNC_FOR_DEVICE
    ANNOUNCE_BEGIN = 8  # TAG, OFFSET, LENGTH: the kernel, not the driver, is about to store here
    ANNOUNCE_END = 9  # TAG, OFFSET, LENGTH, as at the begin
    REPORT = 10  # KIND, and what it is about: TAG (or 0), ADDRESS, LENGTH, DIRECTION, VALUES


class MailStatus(IntEnum):
    """MAIL_GO: 0, or [15:0] the status and [31:16] the position + 1 of the record that failed.

    Position 0 means the batch itself, of which nothing was done. A record that fails has changed
    nothing; those before it are done, those behind it are not.
    """

    OK = 0
    # Of the batch:
    BAD_COUNT = 1  # MAIL_COUNT is 0 or above MAIL_CAPACITY
    UNREACHABLE = 2  # the batch does not lie in memory that the platform can read
    BUS_MASTER_OFF = 3  # the platform function may not read memory
    BUDGET = 4  # MAIL_BUDGET is spent before this record: send it and the rest again
    # Of a record:
    BAD_COMMAND = 16
    BAD_FIELD = 17  # a field that the command does not use is not 0
    BAD_TAG = 18  # below MAIL_TAG_BASE, or VALUES[0] names no mapping
    BAD_DIRECTION = 19
    BAD_CALL = 20  # not a DmaCall
    BAD_KIND = 21  # not a DriverReportKind
    BAD_RANGE = 22  # no bytes, or bytes above 2**64
    TOO_LONG = 23  # a track of more than MAIL_TRACK_MAX bytes
    NO_SUCH_TAG = 24  # nothing is granted (WITHDRAW) or tracked by this tag
    TAG_IN_USE = 25  # the tag is tracked already
    BAD_FUNCTION = 26  # VALUES[1] of a GRANT is neither 0 nor a function
    PROTECTION_FULL = 0x100 | ProtectionStatus.FULL  # as ProtectionStatus.FULL
    # The cache model's, as CacheStatus has them:
    CACHE_OFF = 0x200 | CacheStatus.BAD_CONFIGURATION  # the model is off: nothing is tracked
    CACHE_BAD_BUFFER = 0x200 | CacheStatus.BAD_BUFFER
    CACHE_BAD_RANGE = 0x200 | CacheStatus.BAD_RANGE
    CACHE_BAD_TYPE = 0x200 | CacheStatus.BAD_TYPE
    CACHE_BAD_ANNOUNCEMENT = 0x200 | CacheStatus.BAD_ANNOUNCEMENT
    CACHE_BUSY = 0x200 | CacheStatus.BUSY
    CACHE_TOO_MUCH = 0x200 | CacheStatus.TOO_MUCH
    CACHE_NO_BACKING = 0x200 | CacheStatus.NO_BACKING
    CACHE_MEMORY_GONE = 0x200 | CacheStatus.MEMORY_GONE
    CACHE_WALK_NOT_PRESENT = 0x200 | CacheStatus.WALK_NOT_PRESENT
    CACHE_WALK_BAD_ARGUMENT = 0x200 | CacheStatus.WALK_BAD_ARGUMENT
    CACHE_WALK_TABLE_UNREACHABLE = 0x200 | CacheStatus.WALK_TABLE_UNREACHABLE
    CACHE_WALK_RESERVED_BIT = 0x200 | CacheStatus.WALK_RESERVED_BIT
    CACHE_WALK_TOO_MANY_RUNS = 0x200 | CacheStatus.WALK_TOO_MANY_RUNS


class DmaCall(IntEnum):
    """The operation of Linux's ``struct dma_map_ops`` by which the driver came.

    dma_map_single() is dma_map_page() there, and so on: the operation cannot tell them apart.
    """

    NONE = 0
    ALLOC_COHERENT = 1  # dma_alloc_attrs()
    ALLOC_PAGES = 2  # dma_alloc_pages(), dma_alloc_noncoherent()
    ALLOC_NONCONTIGUOUS = 3
    MAP_PAGE = 4  # dma_map_single() too
    MAP_SG = 5  # dma_map_sgtable() too
    MAP_RESOURCE = 6
    FREE_COHERENT = 17
    FREE_PAGES = 18
    FREE_NONCONTIGUOUS = 19
    UNMAP_PAGE = 20
    UNMAP_SG = 21
    UNMAP_RESOURCE = 22
    SYNC_SINGLE_FOR_CPU = 33
    SYNC_SINGLE_FOR_DEVICE = 34
    SYNC_SG_FOR_CPU = 35
    SYNC_SG_FOR_DEVICE = 36
    MMAP = 49
    GET_SGTABLE = 50
    SET_MASK = 51
    SET_COHERENT_MASK = 52
    BIND = 65  # the driver's probe
    UNBIND = 66  # the driver is gone: what is left then is leaked


# The call that ends what a call began.
DMA_CALL_ENDS = {
    DmaCall.ALLOC_COHERENT: DmaCall.FREE_COHERENT,
    DmaCall.ALLOC_PAGES: DmaCall.FREE_PAGES,
    DmaCall.ALLOC_NONCONTIGUOUS: DmaCall.FREE_NONCONTIGUOUS,
    DmaCall.MAP_PAGE: DmaCall.UNMAP_PAGE,
    DmaCall.MAP_SG: DmaCall.UNMAP_SG,
    DmaCall.MAP_RESOURCE: DmaCall.UNMAP_RESOURCE,
}


@dataclass(frozen=True, slots=True)
class MailRecord:
    """128 bytes in guest memory: one command of a batch. Any bytes are a record.

    ``direction`` is a GrantDirection, ``address`` a bus address; ``length`` and ``offset`` (from
    the mapping's first byte) are in bytes. ``virtual`` and ``root`` are where the kernel has the
    buffer and its top page table (physical), of ``levels`` levels. ``callers`` are return addresses
    in the kernel, the innermost first, and 0 behind the last.
    """

    command: int
    direction: int = 0
    tag: int = 0
    call: int = 0
    address: int = 0
    length: int = 0
    offset: int = 0
    virtual: int = 0
    root: int = 0
    levels: int = 0
    kind: int = 0
    callers: tuple[int, ...] = (0,) * MAIL_CALLERS
    values: tuple[int, ...] = (0,) * MAIL_VALUES
    reserved: tuple[int, ...] = (0, 0)

    STRUCT = struct.Struct("<4I5Q2I4Q2Q2Q")
    SIZE = STRUCT.size

    def pack(self) -> bytes:
        """Return the record's ``SIZE`` bytes."""
        *head, callers, values, reserved = astuple(self)
        return self.STRUCT.pack(*head, *callers, *values, *reserved)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> MailRecord:
        """Read a record's ``SIZE`` bytes."""
        found = cls.STRUCT.unpack(data)
        command, direction, tag, call, address, length, offset, virtual, root, *rest = found
        return cls(
            *(command, direction, tag, call, address, length, offset, virtual, root),
            *(rest[0], rest[1], tuple(rest[2:6]), tuple(rest[6:8]), tuple(rest[8:])),
        )
