# SPDX-License-Identifier: Apache-2.0
"""The platform's witness: status, memory types, and the runs of pages that it reports."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dma_rehearsal.device.layout.platform import PLATFORM_RESULTS_SIZE

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
