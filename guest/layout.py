"""Register layouts and record formats that the host's devices and the guest's code agree on.

This is the one definition. ``guest/layout.py`` is the same text, written by ``make generate``, so
that ``guest/`` stands alone on a board; a test fails when the two differ. Standard library only.

All registers are 32-bit little-endian; 64-bit values are a LO and a HI register.

Sources: the PCIe Exerciser of Arm's Base System Architecture compliance documents (BAR0); BAR3 and
the platform's layout are this project's own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

EXERCISER_VENDOR_ID = 0x13B5
EXERCISER_DEVICE_ID = 0xED01
EXERCISER_SUBSYSTEM_VENDOR_ID = 0x13B5
EXERCISER_SUBSYSTEM_ID = 0x0000
EXERCISER_CLASS_CODE = 0xED0000

# 0x1234 is the unregistered vendor id that QEMU's own teaching devices use.
PLATFORM_VENDOR_ID = 0x1234
PLATFORM_DEVICE_ID = 0xDA7A
PLATFORM_CLASS_CODE = 0xFF0000


class ExerciserBar(IntEnum):
    """What each of the exerciser's BARs holds."""

    CONTROL = 0
    BUFFER = 1
    MSIX_TABLE = 2
    EXTENSION = 3
    MSIX_PBA = 4


CONTROL_SIZE = 0x1000
BUFFER_SIZE_DEFAULT = 0x10000
EXTENSION_SIZE = 0x1000
VECTORS_DEFAULT = 16


class Reg(IntEnum):
    """BAR0: offsets of the exerciser's control registers, as Arm lays them out."""

    MSICTL = 0x00
    INTXCTL = 0x04
    DMACTL = 0x08
    DMA_OFFSET = 0x0C
    DMA_BUS_ADDR_LO = 0x10
    DMA_BUS_ADDR_HI = 0x14
    DMA_LEN = 0x18
    DMASTATUS = 0x1C
    PASID_VAL = 0x20
    ATSCTL = 0x24
    ATS_ADDR_LO = 0x28
    ATS_ADDR_HI = 0x2C
    ATS_RANGE_SIZE = 0x30
    ATS_PERM = 0x38
    RID_CTL = 0x3C
    TXN_TRACE = 0x40
    TXN_CTRL = 0x44
    VDM_CTL = 0x48


MSICTL_VECTOR = 0x7FF
MSICTL_TRIGGER = 1 << 31
INTXCTL_ASSERT = 1 << 0


class DmaCtl(IntFlag):
    """DMACTL: [3:0] trigger, then the attributes of the transaction."""

    TRIGGER = 1 << 0
    TRIGGER_MASK = 0xF
    WRITE_MEMORY = 1 << 4  # clear: read memory into the device
    NO_SNOOP = 1 << 5
    PASID = 1 << 6
    PRIVILEGED = 1 << 7
    INSTRUCTION = 1 << 8
    USE_ATC = 1 << 9
    AT_MASK = 3 << 10


class AddressType(IntEnum):
    """DMACTL[11:10]."""

    UNTRANSLATED = 0
    UNTRANSLATED_1 = 1
    TRANSLATED = 2
    RESERVED = 3


class DmaStatus(IntEnum):
    """DMASTATUS[1:0]. A refused DMA moves nothing."""

    OK = 0
    RANGE = 1
    INTERNAL = 2


DMASTATUS_CODE = 0x3
DMASTATUS_CLEAR = 1 << 2


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
    RING_TRANSFERS = 0x0E0
    PROFILE = 0x100  # ProfileFlag
    PROFILE_CRC32 = 0x104  # of all that the profile says
    PROFILE_RULE = 0x108  # DmaRule
    LINE_SIZE = 0x10C  # bytes of a cache line
    LATENCY_NS = 0x110  # of each DMA; modelled
    BANDWIDTH_MB_S = 0x114  # 10**6 bytes a second, 0 = not modelled


EXT_MAGIC = 0x52414D44  # "DMAR" as bytes
EXT_VERSION = 0x0001_0002
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
    BAD_DESCRIPTOR = 17  # unknown flags, or directions that differ in one transfer
    UNFINISHED_CHAIN = 18  # the ring's last descriptor announces another one
    TRANSFER_SIZE = 19  # more than RING_BYTES_MAX in one transfer
    LENGTH_ALIGNMENT = 20  # a constraint of BAR3, and the one below
    MAX_TRANSFER = 21
    PRP = 22  # DmaRule.PRP: a segment in the midst of a page, or a gap
    # The platform's protection unit, by the first byte at fault:
    PROTECTION_OUTSIDE = 32  # the first of the request, and no grant covers it
    PROTECTION_PAST_END = 33  # a later one, and no grant covers it
    PROTECTION_DIRECTION = 34  # grants cover it, none of them for this direction
    # The platform's cache model:
    CACHE_UNTRACKED = 40  # a no-snoop access in strict mode to a line that no buffer tracks


RING_SIZE_MIN = 2
RING_SIZE_MAX = 4096  # descriptors; bounds the work of one doorbell, together with:
RING_BYTES_MAX = 64 << 20
RING_ENABLE = 1 << 0  # RING_CONTROL; from 0 to 1 it latches base and size, and starts at index 0


class RingFlag(IntFlag):
    """Flags of a descriptor."""

    WRITE_MEMORY = 1 << 0  # as in DMACTL
    CHAIN = 1 << 1  # the next descriptor is a further segment of this transfer
    INTERRUPT = 1 << 2  # send RING_VECTOR's MSI-X when the transfer has ended
    NO_SNOOP = 1 << 3


class RingStatus(IntEnum):
    """RING_STATUS: what came of the last doorbell. RING_COMPLETION says how far it came."""

    OK = 0
    DISABLED = 1
    BAD_SIZE = 2  # RING_SIZE is not RING_SIZE_MIN to RING_SIZE_MAX
    BAD_INDEX = 3  # the doorbell's index is not below RING_SIZE
    UNREACHABLE = 4  # descriptors cannot be read; a record says why
    BUDGET = 5  # RING_BYTES_MAX were moved: ring again with the same index to go on
    BUSY = 6  # not done: memory that only the device's client reaches takes its time
    ABORTED = 7  # bus mastering ended meanwhile; the transfer under way has a record


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


class AtsCtl(IntFlag):
    """ATSCTL: a translation request, and what came of it."""

    TRIGGER = 1 << 0
    PRIVILEGED = 1 << 1
    NO_WRITE = 1 << 2
    PASID = 1 << 3
    EXECUTE = 1 << 4
    CLEAR_ATC = 1 << 5
    IN_FLIGHT = 1 << 6
    SUCCESS = 1 << 7
    CACHEABLE = 1 << 8
    INVALIDATED = 1 << 9


class AtsPerm(IntFlag):
    """ATS_PERM. Arm's documents disagree on the last bit: 5 in one place, 6 in another."""

    EXECUTE = 1 << 0
    WRITE = 1 << 1
    READ = 1 << 2
    PRIVILEGED_EXECUTE = 1 << 3
    PRIVILEGED_WRITE = 1 << 4
    PRIVILEGED_READ = 1 << 5


RID_MASK = 0xFFFF
RID_VALID = 1 << 31
PASID_MASK = 0xF_FFFF
TXN_TRACE_EMPTY = 0xFFFF_FFFF
TXN_TRACE_CAPACITY = 16
TXN_ENABLE = 1 << 0


class TxnAttribute(IntFlag):
    """The first of a traced transaction's five words; [31:16] one bit, at log2 of the size."""

    READ = 1 << 1
    CONFIG = 1 << 2


TXN_SIZE_SHIFT = 16
TXN_WORDS = 5  # attributes, address lo, address hi, data lo, data hi


class ErrorInjection(IntFlag):
    """Control of the error-injection DVSEC; its low half is the DVSEC's id."""

    CORRUPT_DMA = 1 << 16
    INJECT = 1 << 17
    POISON = 1 << 18
    CODE_MASK = 0x7FF << 20
    FATAL = 1 << 31


ERROR_DVSEC_VENDOR = 0x13B5
ERROR_DVSEC_ID = 1


class PlatformBar(IntEnum):
    """What each of the platform device's BARs holds."""

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
    were overwritten.

    The cache model takes a CacheCommand in CACHE_CTL; CACHE_STATUS, read afterwards, ends it.
    TRACK's virtual range and page tables are in the WITNESS_* registers, as for a walk.
    TAKE_REPORTS puts CACHE_REPORTS reports into BAR1, each a CacheReport.
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


PLATFORM_MAGIC = 0x54414C50  # "PLAT" as bytes
PLATFORM_VERSION = 0x0001_0002
WITNESS_TRIGGER = 1 << 0
WITNESS_MAX_PAGES = 65536  # pages looked at by one command; keeps its reply far below QEMU's 5 s
MTRR_MAX = 16
MTRR_FIXED_NAMES = (
    "64K_00000",
    "16K_80000",
    "16K_A0000",
    "4K_C0000",
    "4K_C8000",
    "4K_D0000",
    "4K_D8000",
    "4K_E0000",
    "4K_E8000",
    "4K_F0000",
    "4K_F8000",
)


class PlatformFeature(IntFlag):
    """FEATURES: which models this platform has."""

    WITNESS = 1 << 0
    PROTECTION = 1 << 1
    CACHE = 1 << 2


class WitnessStatus(IntEnum):
    """WITNESS_STATUS: how the last walk ended."""

    OK = 0
    NOT_PRESENT = 1  # WITNESS_FAULT_VA says where; runs before it are valid
    BAD_ARGUMENT = 2  # levels not 4 or 5, length 0 or too long, address not canonical
    TABLE_UNREACHABLE = 3  # a table lies outside the memory that the device can reach
    RESERVED_BIT = 4  # an entry that the processor would refuse
    TOO_MANY_RUNS = 5  # more runs than BAR1 holds; those there are valid
    NEVER_RUN = 6
    BUS_MASTER_OFF = 7


GRANT_CAPACITY = 4096  # grants in force at once
FAULT_CAPACITY = 256


class ProtectionCommand(IntEnum):
    """PROTECTION_CTL: what to do, with which of the GRANT_* registers."""

    GRANT = 1  # ADDRESS, LENGTH, DIRECTION and OWNER; gives ID
    WITHDRAW = 2  # ID
    WITHDRAW_OWNER = 3  # all grants of OWNER; gives WITHDRAWN
    ENABLE = 4
    DISABLE = 5  # everything is let through; the grants stay
    NEXT_OWNER = 6  # the least owner of a grant that is not below OWNER; gives OWNER


class ProtectionStatus(IntEnum):
    """PROTECTION_STATUS: how the last command ended. Only OK has changed anything."""

    OK = 0
    BAD_ARGUMENT = 1  # no bytes, bytes above 2**64, or no direction that there is
    FULL = 2  # GRANT_CAPACITY grants are in force
    NO_SUCH_GRANT = 3
    NO_SUCH_OWNER = 4
    UNKNOWN_COMMAND = 5
    NEVER_RUN = 6


class GrantDirection(IntFlag):
    """GRANT_DIRECTION: IOKit's values, which name directions from the memory's side."""

    IN = 1 << 0  # the device may write memory
    OUT = 1 << 1  # the device may read memory


class MemoryType(IntEnum):
    """Intel SDM vol. 3A, 12.12: encodings of IA32_PAT and the MTRRs. UC_MINUS is PAT's alone."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7


@dataclass(frozen=True, slots=True)
class WitnessRun:
    """One run of pages alike: 32 bytes in the platform's BAR1.

    ``va``, ``physical`` and ``length`` are in bytes; ``page_size`` is 4 KiB, 2 MiB or 1 GiB.
    """

    va: int
    physical: int
    length: int
    page_size: int
    effective: MemoryType
    pat: MemoryType
    mtrr: MemoryType
    pat_index: int
    writable: bool
    user: bool
    no_execute: bool

    STRUCT = struct.Struct("<QQQII")

    def pack(self) -> bytes:
        """Return the record's 32 bytes."""
        attributes = (
            self.effective
            | self.pat << 4
            | self.mtrr << 8
            | self.pat_index << 12
            | self.writable << 16
            | self.user << 17
            | self.no_execute << 18
        )
        return self.STRUCT.pack(self.va, self.physical, self.length, self.page_size, attributes)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> WitnessRun:
        """Read a record's 32 bytes; ValueError for a type that does not exist."""
        va, physical, length, page_size, attributes = cls.STRUCT.unpack(data)
        return cls(
            va,
            physical,
            length,
            page_size,
            MemoryType(attributes & 0x7),
            MemoryType(attributes >> 4 & 0x7),
            MemoryType(attributes >> 8 & 0x7),
            attributes >> 12 & 0x7,
            bool(attributes >> 16 & 1),
            bool(attributes >> 17 & 1),
            bool(attributes >> 18 & 1),
        )


WITNESS_RUN_MAX = PLATFORM_RESULTS_SIZE // WitnessRun.STRUCT.size


class CacheCommand(IntEnum):
    """CACHE_CTL: what to do, with which registers."""

    CONFIGURE = 1  # MODE, LINE, SEED; drops every track without touching memory
    TRACK = 2  # TAG, DIRECTION, and the witness's inputs
    UNTRACK = 3  # TAG
    CLEAN = 4  # TAG, OFFSET, LENGTH, as all below but the last
    INVALIDATE = 5
    CLEAN_INVALIDATE = 6
    SYNC_FOR_DEVICE = 7  # and DIRECTION
    SYNC_FOR_CPU = 8  # and DIRECTION
    ANNOUNCE_BEGIN = 9
    ANNOUNCE_END = 10
    TAKE_REPORTS = 11  # the oldest ones go to BAR1 and are forgotten; gives REPORTS


class CacheStatus(IntEnum):
    """CACHE_STATUS: how the last command ended. Only OK has changed anything."""

    OK = 0
    BAD_COMMAND = 1
    BAD_CONFIGURATION = 2  # a mode or line size that there is not, or TRACK while the mode is off
    BAD_BUFFER = 3  # the tag is not tracked, or (TRACK) is tracked already
    BAD_RANGE = 4  # empty, too long, or not the buffer's
    BAD_DIRECTION = 5
    BAD_TYPE = 6  # write-protected memory has no rules
    BAD_ANNOUNCEMENT = 7  # an end without its begin, a second begin, or too many
    BUSY = 8  # a line is tracked with another memory type; CACHE_FAULT says where
    TOO_MUCH = 9  # more memory than the model may track
    NO_BACKING = 10  # memory that only the client reaches
    MEMORY_GONE = 11  # the client took a tracked buffer's memory away; CONFIGURE ends that
    NEVER_RUN = 12
    WALK_NOT_PRESENT = 16  # TRACK's walk, as WitnessStatus has it; CACHE_FAULT says where
    WALK_BAD_ARGUMENT = 17
    WALK_TABLE_UNREACHABLE = 18
    WALK_RESERVED_BIT = 19
    WALK_TOO_MANY_RUNS = 20
    BUS_MASTER_OFF = 21


class CacheModelMode(IntEnum):
    """CACHE_MODE: what a no-snoop access meets. Off: nothing is tracked, everything is snooped."""

    OFF = 0
    STRICT = 1
    SEEDED = 2


CACHE_LINE_SIZES = (32, 64, 128, 256)  # bytes
CACHE_MAX_OPERATION = 2 << 20  # bytes of one buffer


class CacheDirection(IntEnum):
    """IOKit's kIODirection*: In = the device writes memory, Out = it reads memory."""

    IN = 1
    OUT = 2
    IN_OUT = 3


class CacheOperation(IntEnum):
    """What the cache model was asked to do; 0 is never used, so that it can mean none."""

    TRACK = 1
    UNTRACK = 2
    SNOOPED_READ = 3
    SNOOPED_WRITE = 4
    NO_SNOOP_READ = 5
    NO_SNOOP_WRITE = 6
    CLEAN = 7
    INVALIDATE = 8
    CLEAN_INVALIDATE = 9
    SYNC_FOR_DEVICE = 10
    SYNC_FOR_CPU = 11
    ANNOUNCE_BEGIN = 12
    ANNOUNCE_END = 13
    EVICTION = 14  # never asked for: what a report names that an eviction caused


class CacheReportKind(IntEnum):
    """What went wrong. A report of any kind but WRONG_DIRECTION is about lines."""

    STORED_WHILE_DEVICE_OWNS = 1
    WRITE_TO_DIRTY_LINE = 2
    DEVICE_BYTES_LOST = 3
    DEVICE_BYTES_AT_RISK = 4
    CPU_BYTES_LOST = 5
    RELEASED_DIRTY = 6
    RELEASED_UNREAD = 7
    WRONG_DIRECTION = 8


class CacheMissingCall(IntEnum):
    """What the driver should have called."""

    SYNC_FOR_DEVICE_AFTER_STORE = 1
    SYNC_FOR_DEVICE_BEFORE_RECEIVE = 2
    SYNC_FOR_CPU_BEFORE_STORE = 3
    SYNC_FOR_CPU_AFTER_RECEIVE = 4
    SYNC_WITH_THE_BUFFERS_DIRECTION = 5


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One report of the cache model: 560 bytes in the platform's BAR1.

    ``tag`` names the buffer; ``offset`` is in bytes from its first one (negative where it begins
    inside its first line), ``line`` counts its lines from 0, ``lines`` adjacent ones suffered the
    same. ``expected`` and ``seen``: bytes from ``offset`` on in the first of them, what a correct
    driver's data would be, and what took its place. The operation ``by`` found it, and ``last`` was
    the last on that line before; both have numbers.
    """

    kind: CacheReportKind
    missing: CacheMissingCall
    by: CacheOperation
    last: CacheOperation
    tag: int
    line: int
    lines: int
    offset: int
    number: int
    last_number: int
    expected: bytes
    seen: bytes

    STRUCT = struct.Struct("<4B3IqQQHH4x")
    BYTES = max(CACHE_LINE_SIZES)
    SIZE = STRUCT.size + 2 * BYTES

    def pack(self) -> bytes:
        """Return the record's ``SIZE`` bytes."""
        head = self.STRUCT.pack(
            *(self.kind, self.missing, self.by, self.last, self.tag, self.line, self.lines),
            *(self.offset, self.number, self.last_number, len(self.expected), len(self.seen)),
        )
        return head + self.expected.ljust(self.BYTES, b"\0") + self.seen.ljust(self.BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> CacheReport:
        """Read a record's bytes; ValueError for one that no model writes."""
        kind, missing, by, last, tag, line, lines, *rest = cls.STRUCT.unpack_from(data)
        offset, number, last_number, expected, seen = rest
        if max(expected, seen) > cls.BYTES:
            raise ValueError(f"a report of {expected} and {seen} bytes")
        first, second = cls.STRUCT.size, cls.STRUCT.size + cls.BYTES
        return cls(
            CacheReportKind(kind),
            CacheMissingCall(missing),
            CacheOperation(by),
            CacheOperation(last),
            *(tag, line, lines),
            *(offset, number, last_number),
            bytes(data[first : first + expected]),
            bytes(data[second : second + seen]),
        )


CACHE_REPORTS_MAX = PLATFORM_RESULTS_SIZE // CacheReport.SIZE
