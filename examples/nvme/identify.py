# SPDX-License-Identifier: Apache-2.0
"""The data structures of Identify (5.15), and of Get Log Page (5.14)."""

from __future__ import annotations

import struct
import uuid

from examples.nvme.layout import BLOCK_SHIFT, EVENT_REQUESTS, IO_QUEUES, MDTS, PAGE, VERSION

NAMESPACE = 1
_UUID = uuid.UUID("6d6f6465-6c2d-4f66-8d61-000000000001")
_SIZE = {1: 4096, 2: 512, 3: 512}  # of log pages: errors, SMART, firmware slots
_FIRMWARE = b"1.0     "
_KELVIN = 310


def _text(text: str, size: int) -> bytes:
    return text.encode().ljust(size)


def controller(vendor: int) -> bytes:
    """Return Identify Controller (5.15.2.2)."""
    data = bytearray(PAGE)
    struct.pack_into("<HH20s40s8s", data, 0, vendor, vendor, _text("DMA-1", 20),
                     _text("dma-rehearsal example", 40), _FIRMWARE)  # fmt: skip
    data[77] = MDTS
    struct.pack_into("<HI", data, 78, 1, VERSION)
    data[111] = 1  # an I/O controller
    data[258] = 3  # Abort Command Limit, from 0
    data[259] = EVENT_REQUESTS - 1
    data[260] = 1 << 1 | 1  # one firmware slot, read only
    struct.pack_into("<HH", data, 266, 343, 353)  # warning and critical temperature, in K
    data[512], data[513] = 0x66, 0x44  # entries of 64 and of 16 bytes
    struct.pack_into("<IH", data, 516, 1, 1 << 3 | 1 << 2)  # Write Zeroes, Dataset Management
    data[525] = 1  # a volatile write cache
    data[768:1024] = f"nqn.2014-08.org.nvmexpress:uuid:{_UUID}".encode().ljust(256, b"\0")
    struct.pack_into("<H", data, 2048, 100)  # power state 0: 1 W
    return bytes(data)


def namespace(blocks: int) -> bytes:
    """Return Identify Namespace (5.15.2.1)."""
    data = bytearray(PAGE)
    struct.pack_into("<QQQ", data, 0, blocks, blocks, blocks)
    data[33] = 1  # deallocated blocks read 0
    data[104:120] = _UUID.bytes
    data[130] = BLOCK_SHIFT
    return bytes(data)


def namespaces(after: int) -> bytes:
    """Return the identifiers of active namespaces above ``after`` (5.15.2.3)."""
    return struct.pack("<I", NAMESPACE if after < NAMESPACE else 0).ljust(PAGE, b"\0")


def descriptors() -> bytes:
    """Return the namespace's identification descriptors (5.15.2.4): a UUID."""
    return struct.pack("<BB2x16s", 3, 16, _UUID.bytes).ljust(PAGE, b"\0")


def log_page(number: int) -> bytes | None:
    """Return a log page; None when there is none of that number."""
    if number not in _SIZE:
        return None
    data = bytearray(_SIZE[number])
    if number == 2:
        struct.pack_into("<BHBB", data, 0, 0, _KELVIN, 100, 10)
    elif number == 3:
        data[0] = 1
        data[8:16] = _FIRMWARE
    return bytes(data)


def features(asked: int) -> int:
    """Return the result of Set Features, Number of Queues (5.21.1.7), from 0 each."""
    most = IO_QUEUES - 1
    return min(asked & 0xFFFF, most) | min(asked >> 16, most) << 16
