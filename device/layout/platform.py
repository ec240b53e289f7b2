# SPDX-License-Identifier: Apache-2.0
"""The platform's identity and BAR0, in which its models have their registers."""

from __future__ import annotations

from enum import IntEnum, IntFlag

# 0x1234 is the unregistered vendor id that QEMU's own teaching devices use.
PLATFORM_VENDOR_ID = 0x1234
PLATFORM_DEVICE_ID = 0xDA7A
PLATFORM_CLASS_CODE = 0xFF0000


class PlatformBar(IntEnum):
    """The platform device's BARs."""

    CONTROL = 0
    RESULTS = 1


PLATFORM_CONTROL_SIZE = 0x1000
PLATFORM_RESULTS_SIZE = 0x10000


class Plat(IntEnum):
    """The platform's BAR0. The witness walks page tables; its runs appear in BAR1.

    The protection unit takes a ProtectionCommand in PROTECTION_CTL, with the GRANT_* registers as
    arguments; PROTECTION_STATUS, read afterwards, ends it. FAULT_SELECT takes a sequence number (1
    is the first fault after reset); the FAULT_* registers then show that denied request while
    FAULT_VALID reads 1. The newest FAULT_CAPACITY faults are kept; FAULT_LOST counts those that
    were overwritten. While the unit is on, TOUCHED_* tell what the requests touched that passed it.

    The cache model takes a CacheCommand in CACHE_CTL; CACHE_STATUS, read afterwards, ends it.
    TRACK's virtual range and page tables are in the WITNESS_* registers, as for a walk.
    TAKE_REPORTS puts CACHE_REPORTS reports into BAR1, each a CacheReport.

    The request log counts the requests to memory of all functions beside this one: REQUEST_COUNT is
    the sequence number of the newest. REFUSED_SELECT takes a number of its own (1 is the first
    refusal after reset); the REFUSED_* registers then show that request while REFUSED_VALID reads
    1. The newest REFUSED_CAPACITY are kept. A number written to MARK comes into the trace.

    A read of MAIL_GO carries out the batch of MAIL_COUNT records at MAIL_ADDRESS, a bus address,
    and returns 0 or a MailStatus (see `mailbox`).

    BOARD_SNOOP and HOLD_* say how the board's other functions behave: whether any of their requests
    is snooped, and when the DMA of an action begins.
    """

    MAGIC = 0x000
    VERSION = 0x004
    FEATURES = 0x008
    WITNESS_CTL = 0x100
    WITNESS_STATUS = 0x104
    WITNESS_ROOT_LO = 0x108
    WITNESS_ROOT_HI = 0x10C
    WITNESS_VA_LO = 0x110
    WITNESS_VA_HI = 0x114
    WITNESS_LENGTH_LO = 0x118
    WITNESS_LENGTH_HI = 0x11C
    WITNESS_LEVELS = 0x120
    WITNESS_RUN_COUNT = 0x124
    WITNESS_PAGE_COUNT = 0x128
    WITNESS_FAULT_VA_LO = 0x12C
    WITNESS_FAULT_VA_HI = 0x130
    PAT_LO = 0x138
    PAT_HI = 0x13C
    MTRR_DEF_TYPE_LO = 0x140
    MTRR_DEF_TYPE_HI = 0x144
    PHYSICAL_BITS = 0x148
    MTRR_COUNT = 0x14C
    MTRR_RANGES = 0x200  # MTRR_MAX times (PHYSBASE lo, hi, PHYSMASK lo, hi)
    MTRR_FIXED = 0x300  # the 11 fixed-range registers (lo, hi), in the order of MTRR_FIXED_NAMES
    PROTECTION_CTL = 0x400
    PROTECTION_STATUS = 0x404
    PROTECTION_ENABLED = 0x408  # 1: a request without a grant is denied
    GRANT_CAPACITY = 0x40C
    GRANT_COUNT = 0x410  # grants in force
    GRANT_WITHDRAWN = 0x414  # grants that the last command took back
    GRANT_ADDRESS_LO = 0x418
    GRANT_ADDRESS_HI = 0x41C
    GRANT_LENGTH_LO = 0x420
    GRANT_LENGTH_HI = 0x424
    GRANT_OWNER_LO = 0x428
    GRANT_OWNER_HI = 0x42C
    GRANT_DIRECTION = 0x430  # GrantDirection
    GRANT_ID = 0x434
    GRANT_STATUS = 0x438  # PROTECTION_STATUS and GRANT_ID once more: GRANT's answer in one read
    GRANT_MADE = 0x43C
    FAULT_CAPACITY = 0x440
    FAULT_COUNT = 0x444
    FAULT_LOST = 0x448
    FAULT_SELECT = 0x44C
    FAULT_VALID = 0x450
    FAULT_SEQUENCE = 0x454
    FAULT_REASON = 0x458  # DmaReason
    FAULT_DIRECTION = 0x45C  # DmaDirection
    FAULT_ADDRESS_LO = 0x460  # of the request
    FAULT_ADDRESS_HI = 0x464
    FAULT_LENGTH_LO = 0x468
    FAULT_LENGTH_HI = 0x46C
    FAULT_BYTE_LO = 0x470  # the first byte at fault
    FAULT_BYTE_HI = 0x474
    FAULT_GRANT_ID = 0x478  # the nearest grant as it was then; 0: there was none
    FAULT_GRANT_DIRECTION = 0x47C
    FAULT_GRANT_ADDRESS_LO = 0x480
    FAULT_GRANT_ADDRESS_HI = 0x484
    FAULT_GRANT_LENGTH_LO = 0x488
    FAULT_GRANT_LENGTH_HI = 0x48C
    FAULT_GRANT_OWNER_LO = 0x490
    FAULT_GRANT_OWNER_HI = 0x494
    FAULT_GRANT_FUNCTION = 0x498  # its function (FUNCTION_NAMED); 0: it is for every function
    FAULT_FUNCTION = 0x49C  # whose request it was (FUNCTION_NAMED); 0: that is not known
    TOUCHED_ADDRESS_LO = 0x4A0  # of a range on the bus that is asked about
    TOUCHED_ADDRESS_HI = 0x4A4
    TOUCHED_LENGTH_LO = 0x4A8
    TOUCHED_LENGTH_HI = 0x4AC
    TOUCHED_SINCE = 0x4B0  # by requests after this REQUEST_COUNT
    TOUCHED_DIRECTION = 0x4B4  # GrantDirection: by device writes (IN), reads (OUT), or either
    TOUCHED_KNOWN = 0x4B8  # 1: the next ones hold; else requests of that time are forgotten
    TOUCHED_COUNT_LO = 0x4C0  # bytes of the range that were touched
    TOUCHED_COUNT_HI = 0x4C4
    TOUCHED_FIRST_LO = 0x4C8  # offset of the first byte that was not; the length: there is none
    TOUCHED_FIRST_HI = 0x4CC
    GRANT_FUNCTION = 0x4D0  # FUNCTION_NAMED; GRANT_TO_FUNCTION's
    CACHE_CTL = 0x500
    CACHE_STATUS = 0x504
    CACHE_MODE = 0x508  # CacheModelMode; CONFIGURE's, as the line and the seed
    CACHE_LINE = 0x50C  # bytes
    CACHE_SEED_LO = 0x510
    CACHE_SEED_HI = 0x514
    CACHE_TAG = 0x518  # names a buffer
    CACHE_DIRECTION = 0x51C  # CacheDirection; of a sync also 0, the buffer's own
    CACHE_OFFSET_LO = 0x520  # bytes of the buffer
    CACHE_OFFSET_HI = 0x524
    CACHE_LENGTH_LO = 0x528
    CACHE_LENGTH_HI = 0x52C
    CACHE_FAULT_LO = 0x530  # BUSY: a physical address; NOT_PRESENT: a virtual one
    CACHE_FAULT_HI = 0x534
    CACHE_OPERATION_LO = 0x538  # number of the last operation; DMA counts, too
    CACHE_OPERATION_HI = 0x53C
    CACHE_REPORTS = 0x540  # reports that the last TAKE_REPORTS put into BAR1
    CACHE_REPORTS_LOST = 0x544  # reports since CONFIGURE that found no room
    REQUEST_COUNT = 0x600  # requests since the platform's process began; a reset leaves it
    REFUSED_CAPACITY = 0x604
    REFUSED_COUNT = 0x608
    REFUSED_SELECT = 0x60C
    REFUSED_VALID = 0x610
    REFUSED_SEQUENCE = 0x614  # as REQUEST_COUNT was at that request
    REFUSED_REASON = 0x618  # DmaReason
    REFUSED_DIRECTION = 0x61C  # DmaDirection
    REFUSED_ADDRESS_LO = 0x620  # of a request in several ranges: the first; the length is of all
    REFUSED_ADDRESS_HI = 0x624
    REFUSED_LENGTH_LO = 0x628
    REFUSED_LENGTH_HI = 0x62C
    REFUSED_BYTE_LO = 0x630  # the first byte at fault
    REFUSED_BYTE_HI = 0x634
    MARK = 0x638
    MAIL_ADDRESS_LO = 0x700
    MAIL_ADDRESS_HI = 0x704
    MAIL_COUNT = 0x708  # records of the batch
    MAIL_GO = 0x70C  # a read carries out the batch
    MAIL_CAPACITY = 0x710  # records that a batch may have
    BOARD_SNOOP = 0x780  # 1 (reset): as a function asks; 0: no request of any function is snooped
    HOLD_CTL = 0x784  # 1: an action that a BAR write began waits before its first DMA
    HELD = 0x788  # actions that wait, or were let go and are not done
    HOLD_RELEASE = 0x78C  # a write lets those go that wait now
    HOLD_EXPIRED = 0x790  # actions that went by themselves, after too long a wait


PLATFORM_MAGIC = 0x54414C50  # "PLAT" as bytes
PLATFORM_VERSION = 0x0001_0006
REFUSED_CAPACITY = 64
HOLD_POLLS = 64  # reads of a function that let its action go


class PlatformFeature(IntFlag):
    """FEATURES: which models this platform has."""

    WITNESS = 1 << 0
    PROTECTION = 1 << 1
    CACHE = 1 << 2
    REQUESTS = 1 << 3
    MAILBOX = 1 << 4
    BOARD_SNOOP = 1 << 5
    HOLD = 1 << 6
