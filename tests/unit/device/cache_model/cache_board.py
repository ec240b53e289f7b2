# SPDX-License-Identifier: Apache-2.0
"""A platform and an exerciser on one interconnect, with page tables, driven by their registers."""

from __future__ import annotations

import struct

from dma_rehearsal.device import layout
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.profile import PLAIN, Profile
from dma_rehearsal.device.layout import (
    CacheCommand,
    CacheReport,
    CacheReportKind,
    CacheStatus,
    DmaCtl,
    DmaReason,
    Plat,
)
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, dma, read32, write32
from tests.unit.device.platform.tables import PAGE, PAT_4K, PCD, PWT, TABLE

VA = 0x7F12_3456_7000
WB, WT, WC, UC = 0, PWT | PCD | PAT_4K, PWT, PWT | PCD
KINDS = (WB, WT, WC, UC)
# Page n of the range is RAM's page 16 + n, with type n % 4.
DATA = BASE + 16 * PAGE
STAGING = DATA + 16 * PAGE  # no page of the range
LINUX_PAT = 0x0407_0506_0007_0106
IN, OUT, IN_OUT = 1, 2, 3
TAG = 5


class CacheBoard:
    """Both functions, bus mastering on, and a client with memory."""

    def __init__(self, trace: Trace | None = None, profile: Profile = PLAIN) -> None:
        self.client = FakeClient()
        self.platform = Platform(trace or Trace())
        self.exerciser = Exerciser(trace or Trace(), profile=profile)
        self.exerciser.bus.interconnect = self.platform.interconnect
        for each in self.platform, self.exerciser:
            each.attach(self.client)
            each.region_write(7, 4, b"\x06\x00")
        self._make_tables()

    def _make_tables(self) -> None:
        for level, shift in ((0, 39), (1, 30), (2, 21)):
            self._put(level, VA >> shift & 0x1FF, BASE + (level + 1) * PAGE | TABLE)
        for page in range(16):
            entry = DATA + page * PAGE | TABLE | KINDS[page % 4]
            self._put(3, (VA >> 12 & 0x1FF) + page, entry)
        self.set64(Plat.PAT_LO, LINUX_PAT)
        self.set64(Plat.MTRR_DEF_TYPE_LO, 1 << 11 | 6)
        write32(self.platform, 0, Plat.PHYSICAL_BITS, 40)
        self.set64(Plat.WITNESS_ROOT_LO, BASE)
        write32(self.platform, 0, Plat.WITNESS_LEVELS, 4)

    def _put(self, table: int, index: int, value: int) -> None:
        struct.pack_into("<Q", self.client.ram, table * PAGE + 8 * index, value)

    def set64(self, register: int, value: int) -> None:
        write32(self.platform, 0, register, value)
        write32(self.platform, 0, register + 4, value >> 32)

    def get64(self, register: int) -> int:
        return read32(self.platform, 0, register) | read32(self.platform, 0, register + 4) << 32

    # Commands.

    def command(self, command: int, tag: int = TAG, **values: int) -> CacheStatus:
        write32(self.platform, 0, Plat.CACHE_TAG, tag)
        write32(self.platform, 0, Plat.CACHE_DIRECTION, values.get("direction", 0))
        self.set64(Plat.CACHE_OFFSET_LO, values.get("offset", 0))
        self.set64(Plat.CACHE_LENGTH_LO, values.get("length", 0))
        write32(self.platform, 0, Plat.CACHE_CTL, command)
        return CacheStatus(read32(self.platform, 0, Plat.CACHE_STATUS))

    def configure(
        self, mode: int = layout.CacheModelMode.STRICT, line: int = 64, seed: int = 1
    ) -> CacheStatus:
        write32(self.platform, 0, Plat.CACHE_MODE, mode)
        write32(self.platform, 0, Plat.CACHE_LINE, line)
        self.set64(Plat.CACHE_SEED_LO, seed)
        return self.command(CacheCommand.CONFIGURE)

    def track(
        self, page: int = 0, length: int = PAGE, *, tag: int = TAG, direction: int = IN_OUT,
        skip: int = 0,
    ) -> CacheStatus:  # fmt: skip
        self.set64(Plat.WITNESS_VA_LO, VA + page * PAGE + skip)
        self.set64(Plat.WITNESS_LENGTH_LO, length)
        return self.command(CacheCommand.TRACK, tag, direction=direction)

    def done(self, command: CacheCommand, tag: int = TAG, **values: int) -> None:
        assert self.command(command, tag, **values) is CacheStatus.OK

    def reports(self) -> list[CacheReport]:
        self.done(CacheCommand.TAKE_REPORTS)
        size = CacheReport.SIZE
        data = self.platform.region_read(1, 0, size * read32(self.platform, 0, Plat.CACHE_REPORTS))
        return [CacheReport.unpack(data[i : i + size]) for i in range(0, len(data), size)]

    def kinds(self) -> list[CacheReportKind]:
        return [each.kind for each in self.reports()]

    # The CPU, and DMA.

    def store(self, address: int, data: bytes) -> None:
        self.client.ram[address - BASE : address - BASE + len(data)] = data

    def load(self, address: int, length: int) -> bytes:
        return bytes(self.client.ram[address - BASE : address - BASE + length])

    def reads(self, address: int, length: int, *, no_snoop: bool = True) -> bytes:
        """Return what the device reads."""
        seen = self._dma(address, length, write=False, no_snoop=no_snoop)
        assert seen["reason"] == DmaReason.NONE
        return bytes(self.exerciser.region_read(1, 0, length))

    def writes(self, address: int, data: bytes, *, no_snoop: bool = True) -> None:
        self.exerciser.region_write(1, 0, data)
        seen = self._dma(address, len(data), write=True, no_snoop=no_snoop)
        assert seen["reason"] == DmaReason.NONE

    def refused(
        self, address: int, length: int, *, write: bool, no_snoop: bool = True
    ) -> DmaReason:
        seen = self._dma(address, length, write=write, no_snoop=no_snoop)
        assert seen["moved"] == 0
        return DmaReason(seen["reason"])

    def _dma(self, address: int, length: int, *, write: bool, no_snoop: bool) -> dict[str, int]:
        control = DmaCtl.NO_SNOOP if no_snoop else 0
        return dma(self.exerciser, address, length, write=write, control=control)
