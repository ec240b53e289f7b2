# SPDX-License-Identifier: Apache-2.0
"""The platform device: the witness through registers, and what it refuses."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device import layout
from dma_rehearsal.device.layout import MemoryType, Plat, PlatformFeature, WitnessRun, WitnessStatus
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, answer, read32, write32

PAGE = 4096
VA = 0x7F00_0000_0000
LINUX_PAT = 0x0407_0506_0007_0106


def put_table(client: FakeClient, table: int, index: int, entry: int) -> None:
    struct.pack_into("<Q", client.ram, table * PAGE + 8 * index, entry)


@pytest.fixture
def platform(client: FakeClient) -> Platform:
    """A platform with four pages mapped at VA, the second one uncached, told PAT and MTRRs."""
    made = Platform(Trace())
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    for level, shift in ((0, 39), (1, 30), (2, 21)):
        put_table(client, level, VA >> shift & 0x1FF, BASE + (level + 1) * PAGE | 7)
    for page, flags in enumerate((7, 7 | 0x18, 7, 7)):
        put_table(client, 3, page, 0x5000_0000 + page * PAGE | flags)
    set64(made, Plat.PAT_LO, LINUX_PAT)
    set64(made, Plat.MTRR_DEF_TYPE_LO, 1 << 11 | 6)
    write32(made, 0, Plat.PHYSICAL_BITS, 40)
    set64(made, Plat.WITNESS_ROOT_LO, BASE)
    set64(made, Plat.WITNESS_VA_LO, VA)
    set64(made, Plat.WITNESS_LENGTH_LO, 4 * PAGE)
    write32(made, 0, Plat.WITNESS_LEVELS, 4)
    return made


def set64(platform: Platform, offset: int, value: int) -> None:
    write32(platform, 0, offset, value)
    write32(platform, 0, offset + 4, value >> 32)


def walk(platform: Platform) -> tuple[WitnessStatus, list[WitnessRun]]:
    write32(platform, 0, Plat.WITNESS_CTL, layout.WITNESS_TRIGGER)
    count = read32(platform, 0, Plat.WITNESS_RUN_COUNT)
    data = platform.region_read(1, 0, 32 * count)
    runs = [WitnessRun.unpack(data[i : i + 32]) for i in range(0, len(data), 32)]
    return WitnessStatus(read32(platform, 0, Plat.WITNESS_STATUS)), runs


def test_discovery(platform: Platform) -> None:
    assert read32(platform, 0, Plat.MAGIC) == layout.PLATFORM_MAGIC
    assert read32(platform, 0, Plat.VERSION) == layout.PLATFORM_VERSION
    assert PlatformFeature.WITNESS in PlatformFeature(read32(platform, 0, Plat.FEATURES))


def test_walk(platform: Platform) -> None:
    assert read32(platform, 0, Plat.WITNESS_STATUS) == WitnessStatus.NEVER_RUN
    status, runs = walk(platform)
    assert status is WitnessStatus.OK
    assert [(run.physical, run.length, run.effective) for run in runs] == [
        (0x5000_0000, PAGE, MemoryType.WB),
        (0x5000_1000, PAGE, MemoryType.UC),
        (0x5000_2000, 2 * PAGE, MemoryType.WB),
    ]
    assert read32(platform, 0, Plat.WITNESS_PAGE_COUNT) == 4


def test_mtrr_range_and_fixed_inputs(platform: Platform) -> None:
    write32(platform, 0, Plat.MTRR_COUNT, 1)
    set64(platform, Plat.MTRR_RANGES, 0x5000_0000 | MemoryType.WT)
    set64(platform, Plat.MTRR_RANGES + 8, ((1 << 40) - 0x1000_0000) | 1 << 11)
    _, runs = walk(platform)
    assert runs[0].effective is MemoryType.WT
    assert runs[0].mtrr is MemoryType.WT


def test_each_walk_takes_the_types_of_its_time(platform: Platform) -> None:
    """Whichever register changes between two walks."""
    seen = [walk(platform)[1][0].effective]
    for register, value in (
        (Plat.MTRR_DEF_TYPE_LO, 1 << 11 | MemoryType.WT),
        (Plat.PAT_LO, LINUX_PAT & 0xFFFF_FF00),
        (Plat.PAT_LO, LINUX_PAT & 0xFFFF_FFFF),
        (Plat.MTRR_RANGES, 0x5000_0000 | MemoryType.WC),
        (Plat.MTRR_RANGES + 8, 0xF000_0000 | 1 << 11),
        (Plat.MTRR_RANGES + 12, 0xFF),
        (Plat.MTRR_COUNT, 1),
    ):
        write32(platform, 0, register, value)
        seen.append(walk(platform)[1][0].effective)
    wt, uc = MemoryType.WT, MemoryType.UC
    assert seen == [MemoryType.WB, wt, uc, wt, wt, wt, wt, MemoryType.WC]


def test_results_of_a_shorter_walk_leave_nothing_behind(platform: Platform) -> None:
    walk(platform)
    set64(platform, Plat.WITNESS_LENGTH_LO, PAGE)
    walk(platform)
    assert not any(platform.region_read(1, 32, 1024))


def test_hole(platform: Platform) -> None:
    set64(platform, Plat.WITNESS_LENGTH_LO, 5 * PAGE)
    status, runs = walk(platform)
    assert status is WitnessStatus.NOT_PRESENT
    assert len(runs) == 3
    low, high = (read32(platform, 0, Plat.WITNESS_FAULT_VA_LO + 4 * i) for i in range(2))
    assert low | high << 32 == VA + 4 * PAGE


def test_bus_mastering_off(platform: Platform) -> None:
    platform.region_write(7, 4, b"\2\0")
    assert walk(platform) == (WitnessStatus.BUS_MASTER_OFF, [])


def test_root_outside_memory(platform: Platform) -> None:
    set64(platform, Plat.WITNESS_ROOT_LO, 0x4000_0000)
    assert walk(platform) == (WitnessStatus.TABLE_UNREACHABLE, [])


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (Plat.MTRR_COUNT, layout.MTRR_MAX + 1),
        (Plat.MTRR_COUNT, 0xFFFF_FFFF),
        (Plat.PHYSICAL_BITS, 31),
        (Plat.PHYSICAL_BITS, 53),
        (Plat.WITNESS_LEVELS, 3),
        (Plat.WITNESS_LENGTH_HI, 1),
    ],
)
def test_bad_inputs(platform: Platform, register: Plat, value: int) -> None:
    write32(platform, 0, register, value)
    assert walk(platform) == (WitnessStatus.BAD_ARGUMENT, [])


def test_results_cannot_be_written(platform: Platform) -> None:
    walk(platform)
    before = platform.region_read(1, 0, 96)
    platform.region_write(1, 0, b"\xff" * 96)
    assert platform.region_read(1, 0, 96) == before


def test_reset(platform: Platform) -> None:
    walk(platform)
    platform.device_reset()
    answer(platform)
    assert read32(platform, 0, Plat.WITNESS_STATUS) == WitnessStatus.NEVER_RUN
    assert not any(platform.region_read(1, 0, 96))
