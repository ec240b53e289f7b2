# SPDX-License-Identifier: Apache-2.0
"""The kernel module's numbers and structures: mirrors guest/driver/dma_rehearsal_uapi.h."""

from __future__ import annotations

import struct
from typing import Final

VERSION: Final = 3
MODE_SHIFT: Final = 56
PIN_WRITE: Final = 1
PIN_MAX: Final = 1 << 30  # bytes

# include/uapi/asm-generic/ioctl.h: direction 31:30, size 29:16, type 15:8, number 7:0
_WRITE: Final = 1
_READ: Final = 2
_TYPE: Final = 0xDA

INFO_STRUCT: Final = struct.Struct("<II")
QUERY_STRUCT: Final = struct.Struct("<QQQII")
COPY_STRUCT: Final = struct.Struct("<QQQII")
PIN_STRUCT: Final = struct.Struct("<QQII")
PIN_INFO_STRUCT: Final = struct.Struct("<QQII")
PIN_PAGES_STRUCT: Final = struct.Struct("<QQII")
KMAP_STRUCT: Final = struct.Struct("<QQII")
KMAP_INFO_STRUCT: Final = struct.Struct("<QQQII")
PCI_INFO_STRUCT: Final = struct.Struct("<IIII")
EVENTFD_STRUCT: Final = struct.Struct("<Ii")
BUS_MASTER_STRUCT: Final = struct.Struct("<I")
INTERRUPTS_STRUCT: Final = struct.Struct("<I")
_NOTHING: Final = struct.Struct("")


def _ioc(direction: int, number: int, record: struct.Struct) -> int:
    return direction << 30 | record.size << 16 | _TYPE << 8 | number


INFO: Final = _ioc(_READ, 0x00, INFO_STRUCT)
QUERY: Final = _ioc(_READ | _WRITE, 0x01, QUERY_STRUCT)
READ: Final = _ioc(_WRITE, 0x02, COPY_STRUCT)
WRITE: Final = _ioc(_WRITE, 0x03, COPY_STRUCT)
PIN: Final = _ioc(_WRITE, 0x04, PIN_STRUCT)
KMAP: Final = _ioc(_WRITE, 0x05, KMAP_STRUCT)
PCI_INFO: Final = _ioc(_READ, 0x10, PCI_INFO_STRUCT)
EVENTFD: Final = _ioc(_WRITE, 0x11, EVENTFD_STRUCT)
BUS_MASTER: Final = _ioc(_WRITE, 0x12, BUS_MASTER_STRUCT)
SET_INTERRUPTS: Final = _ioc(_WRITE, 0x13, INTERRUPTS_STRUCT)
UNMASK: Final = _ioc(0, 0x14, _NOTHING)
PIN_INFO: Final = _ioc(_READ, 0x20, PIN_INFO_STRUCT)
PIN_PAGES: Final = _ioc(_WRITE, 0x21, PIN_PAGES_STRUCT)
PIN_KMAP: Final = _ioc(0, 0x22, _NOTHING)
KMAP_INFO: Final = _ioc(_READ, 0x30, KMAP_INFO_STRUCT)
