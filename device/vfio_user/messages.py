# SPDX-License-Identifier: Apache-2.0
"""Wire structures of vfio-user (QEMU, docs/interop/vfio-user.rst). All fields are little-endian."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar, Self

MAX_FDS = 16
MAX_DATA_XFER = 1 << 20
PAGE_SIZE = 4096  # the smallest that VERSION may offer; this package knows no platform's
# Header, REGION_WRITE_MULTI or DMA_WRITE fields, and the largest data that was offered.
MAX_MESSAGE = MAX_DATA_XFER + 4096


class Command(IntEnum):
    """Message commands."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flags(IntFlag):
    """Header flags."""

    COMMAND = 0
    REPLY = 1
    TYPE_MASK = 0xF
    NO_REPLY = 1 << 4
    ERROR = 1 << 5


class Wire:
    """A structure with one ``STRUCT``; its fields are the dataclass's, in order."""

    STRUCT: ClassVar[struct.Struct]
    __slots__ = ()

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> Self:
        """Read the structure at ``offset``; struct.error when it is cut short."""
        return cls(*cls.STRUCT.unpack_from(data, offset))

    def pack(self) -> bytes:
        """Return the structure's bytes; struct.error when a field is out of range."""
        return self.STRUCT.pack(*astuple(self))  # type: ignore[call-overload]


@dataclass(slots=True)  # one for each message, and a frozen one takes four times as long to make
class Header(Wire):
    """Every message starts with it; ``size`` includes it."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<HHIII")

    message_id: int
    command: int
    size: int
    flags: int
    error: int


HEADER_SIZE = Header.STRUCT.size


@dataclass(frozen=True, slots=True)
class DmaMap(Wire):
    """DMA_MAP."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<IIQQQ")

    argsz: int
    flags: int
    offset: int
    address: int
    size: int


class DmaMapFlag(IntFlag):
    """DMA_MAP: what the device may do there."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class DmaUnmap(Wire):
    """DMA_UNMAP."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<IIQQ")

    argsz: int
    flags: int
    address: int
    size: int


class DmaUnmapFlag(IntFlag):
    """DMA_UNMAP: 1 is the legacy dirty bitmap, which is refused."""

    GET_DIRTY_BITMAP = 1
    ALL = 2


DEVICE_INFO = struct.Struct("<IIII")  # argsz, flags, num_regions, num_irqs
DEVICE_FLAG_RESET = 1
DEVICE_FLAG_PCI = 2
NUM_REGIONS = 9
ROM_REGION = 6
NUM_IRQS = 5

REGION_INFO = struct.Struct("<IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
REGION_FLAG_READ = 1
REGION_FLAG_WRITE = 2
REGION_FLAG_MMAP = 4
REGION_FLAG_CAPS = 8
SPARSE_MMAP = struct.Struct("<HHIII")  # id, version, next, nr_areas, reserved
SPARSE_MMAP_ID = 1
SPARSE_MMAP_VERSION = 1
SPARSE_AREA = struct.Struct("<QQ")  # offset, size
REGION_IO_FDS = struct.Struct("<IIII")  # argsz, flags, index, count

IRQ_INFO = struct.Struct("<IIII")  # argsz, flags, index, count
IRQ_FLAG_EVENTFD = 1
IRQ_FLAG_MASKABLE = 2
IRQ_FLAG_AUTOMASKED = 4
IRQ_FLAG_NORESIZE = 8


class Irq(IntEnum):
    """VFIO's interrupt indexes of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


@dataclass(frozen=True, slots=True)
class SetIrqs(Wire):
    """DEVICE_SET_IRQS."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<IIIII")

    argsz: int
    flags: int
    index: int
    start: int
    count: int


class SetIrqsFlag(IntFlag):
    """One kind of data and one action."""

    DATA_NONE = 1
    DATA_BOOL = 2
    DATA_EVENTFD = 4
    ACTION_MASK = 8
    ACTION_UNMASK = 16
    ACTION_TRIGGER = 32


@dataclass(frozen=True, slots=True)
class RegionAccess(Wire):
    """REGION_READ and REGION_WRITE; a write's data follow."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<QII")

    offset: int
    region: int
    count: int


WRITE_MULTI_HEADER = struct.Struct("<Q")
WRITE_MULTI_ENTRY = struct.Struct("<QII8s")
WRITE_MULTI_MAX = 200


@dataclass(frozen=True, slots=True)
class DmaAccess(Wire):
    """DMA_READ and DMA_WRITE, which the server sends; a write's data, or a reply's, follow."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<QQ")

    address: int
    count: int


# The specification's table of a DMA_WRITE reply has a count of four bytes; peers send eight.
DMA_WRITE_SHORT_REPLY = struct.Struct("<QI")


class Feature(IntEnum):
    """DEVICE_FEATURE: the index, in bits 0 to 15 of its flags."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8


FEATURE_MASK = 0xFFFF


class FeatureFlag(IntFlag):
    """DEVICE_FEATURE: what is done with it."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


@dataclass(frozen=True, slots=True)
class DeviceFeature(Wire):
    """DEVICE_FEATURE; the feature's data follow."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<II")

    argsz: int
    flags: int


class MigrationFlag(IntFlag):
    """Feature.MIGRATION: the states beyond RUNNING and ERROR."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


MIGRATION_FLAGS = struct.Struct("<Q")


class DeviceState(IntEnum):
    """Feature.MIG_DEVICE_STATE. The two P2P states are not used by vfio-user."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


@dataclass(frozen=True, slots=True)
class MigState(Wire):
    """Feature.MIG_DEVICE_STATE's data. ``data_fd`` is not used by vfio-user."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<Ii")

    device_state: int
    data_fd: int


@dataclass(frozen=True, slots=True)
class LoggingControl(Wire):
    """Feature.DMA_LOGGING_START's data; ``num_ranges`` ranges follow."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<QII")

    page_size: int
    num_ranges: int
    reserved: int


LOGGING_RANGE = struct.Struct("<QQ")  # iova, length


@dataclass(frozen=True, slots=True)
class LoggingReport(Wire):
    """Feature.DMA_LOGGING_REPORT's data; in the reply the bitmap follows."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<QQQ")

    iova: int
    length: int
    page_size: int


@dataclass(frozen=True, slots=True)
class MigData(Wire):
    """MIG_DATA_READ and MIG_DATA_WRITE; the data follow."""

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<II")

    argsz: int
    size: int
