# SPDX-License-Identifier: Apache-2.0
"""The part of include/uapi/linux/vfio.h that VFIO drivers here use, and a way to call it."""

from __future__ import annotations

import fcntl
import struct
from enum import IntEnum, IntFlag
from typing import Final

API_VERSION: Final = 0
TYPE1V2_IOMMU: Final = 3


class Request(IntEnum):
    """ioctl numbers: type ';', number from 100 on, no direction and no size."""

    GET_API_VERSION = 0x3B64
    CHECK_EXTENSION = 0x3B65
    SET_IOMMU = 0x3B66
    GROUP_GET_STATUS = 0x3B67
    GROUP_SET_CONTAINER = 0x3B68
    GROUP_GET_DEVICE_FD = 0x3B6A
    DEVICE_GET_REGION_INFO = 0x3B6C
    DEVICE_GET_IRQ_INFO = 0x3B6D
    DEVICE_SET_IRQS = 0x3B6E
    DEVICE_RESET = 0x3B6F
    IOMMU_GET_INFO = 0x3B70
    IOMMU_MAP_DMA = 0x3B71
    IOMMU_UNMAP_DMA = 0x3B72


GROUP_STATUS: Final = struct.Struct("<II")  # argsz, flags
REGION_INFO: Final = struct.Struct("<IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
IRQ_INFO: Final = struct.Struct("<IIII")  # argsz, flags, index, count
IRQ_SET: Final = struct.Struct("<IIIII")  # argsz, flags, index, start, count; then descriptors
IOMMU_INFO: Final = struct.Struct("<IIQII")  # argsz, flags, page sizes, cap_offset, padding
MAP_DMA: Final = struct.Struct("<IIQQQ")  # argsz, flags, vaddr, iova, size
UNMAP_DMA: Final = struct.Struct("<IIQQ")  # argsz, flags, iova, size
CAPABILITY: Final = struct.Struct("<HHI")  # id, version, offset of the next one
IOVA_RANGES: Final = struct.Struct("<II")  # count, reserved; then first and last address of each
IOVA_RANGE: Final = struct.Struct("<QQ")
DMA_AVAILABLE: Final = struct.Struct("<I")

GROUP_VIABLE: Final = 1 << 0


class IommuInfoFlag(IntFlag):
    """IOMMU_GET_INFO."""

    PAGE_SIZES = 1 << 0
    CAPABILITIES = 1 << 1


class IommuCapability(IntEnum):
    """Capabilities of IOMMU_GET_INFO."""

    IOVA_RANGES = 1
    DMA_AVAILABLE = 3


class MapFlag(IntFlag):
    """Flags of IOMMU_MAP_DMA: the device's rights."""

    READ = 1 << 0
    WRITE = 1 << 1


class Region(IntEnum):
    """Regions of a PCI function; BARs have their own numbers."""

    CONFIG = 7


class RegionFlag(IntFlag):
    """DEVICE_GET_REGION_INFO."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2


class Irq(IntEnum):
    """Interrupt indices of a PCI function."""

    INTX = 0
    MSIX = 2


class IrqSetFlag(IntFlag):
    """DEVICE_SET_IRQS."""

    DATA_NONE = 1 << 0
    DATA_EVENTFD = 1 << 2
    ACTION_UNMASK = 1 << 4
    ACTION_TRIGGER = 1 << 5


def call(fd: int, request: Request, record: struct.Struct, *values: int) -> tuple[int, ...]:
    """Do an ioctl on ``record``, whose first field, argsz, is filled in; return what came back.

    Raises OSError.
    """
    # A bytearray: with bytes ioctl would return a copy, and GROUP_GET_DEVICE_FD's status.
    data = bytearray(record.pack(record.size, *values))
    fcntl.ioctl(fd, request, data)
    return record.unpack(data)
