# SPDX-License-Identifier: Apache-2.0
"""Base address registers: how software sizes and places them, of 32 and of 64 bits."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.pci.base_addresses import ROM, BaseAddress, Space
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Header, Identity

GIB = 1 << 30
MEMORY_ON = Command.MEMORY_SPACE.to_bytes(2, "little")


def config_of(registers: dict[int, BaseAddress]) -> ConfigSpace:
    return ConfigSpace(Identity(1, 2, 3), registers)


def size_of(config: ConfigSpace, index: int, registers: int = 1) -> int:
    """Size BARs as software does; return what the registers read."""
    offset = Header.BAR0 + 4 * index
    for each in range(registers):
        config.write(offset + 4 * each, b"\xff" * 4)
    return int.from_bytes(config.read(offset, 4 * registers), "little")


@pytest.mark.parametrize("size", [16, 4096, GIB, 2 * GIB])
def test_32_bits(size: int) -> None:
    config = config_of({3: BaseAddress(size)})
    assert config.read(Header.BAR0 + 12, 4) == bytes(4)
    assert size_of(config, 3) == -size & 0xFFFF_FFFF
    assert size_of(config, 4) == 0


@pytest.mark.parametrize("size", [16, 4096, 2 * GIB, 4 * GIB, 16 * GIB, 1 << 46])
@pytest.mark.parametrize(("prefetchable", "flags"), [(False, 0x4), (True, 0xC)])
def test_64_bits(size: int, prefetchable: bool, flags: int) -> None:
    config = config_of({2: BaseAddress(size, 64, prefetchable)})
    assert config.read(Header.BAR0 + 8, 8) == bytes((flags, *bytes(7)))
    assert size_of(config, 2, 2) == -size & (1 << 64) - 1 | flags
    assert size_of(config, 1) == 0
    assert size_of(config, 4) == 0


def test_above_4_gib_one_register_after_the_other() -> None:
    config = config_of({0: BaseAddress(4 * GIB, 64, True), 2: BaseAddress(0x1000, 64)})
    config.write(Header.COMMAND, MEMORY_ON)
    config.write(Header.BAR0, struct.pack("<I", 0xFFFF_FFFF))  # its lower half has no address bit
    assert config.bar_address(0) is None
    config.write(Header.BAR0 + 4, struct.pack("<I", 0x38))
    assert config.bar_address(0) == 0x38_0000_0000
    config.write(Header.BAR0 + 8, struct.pack("<I", 0xFEB0_0004))
    assert config.bar_address(2) == 0xFEB0_0000, "64 bits, below 4 GiB"
    config.write(Header.BAR0 + 12, struct.pack("<I", 1))
    assert config.bar_address(2) == 0x1_FEB0_0000


def test_ranges_above_4_gib() -> None:
    base, size = 0x38_0000_0000, 4 * GIB
    config = config_of({0: BaseAddress(size, 64, True)})
    config.write(Header.COMMAND, MEMORY_ON)
    config.write(Header.BAR0, struct.pack("<Q", base))
    assert config.bar_at(base, 1) == (0, 0)
    assert config.bar_at(base + size - 1, 1) == (0, size - 1)
    assert config.bar_at(base - 1, 1) is None
    assert config.bar_at(base + size, 1) is None
    assert config.bar_at(base - 1, 2) == (0, -1), "a byte is enough"
    assert config.bar_at(base, 0) is None
    assert config.overlaps_bar(base + 3 * GIB, 8)
    assert not config.overlaps_bar(base & 0xFFFF_FFFF, 8), "the upper half counts"
    assert not config.overlaps_bar(3 * GIB, 8)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_io(size: int) -> None:
    config = config_of({1: BaseAddress(size, space=Space.IO), 2: BaseAddress(4096)})
    assert config.read(Header.BAR0 + 4, 4) == b"\1\0\0\0"
    assert size_of(config, 1) == -size & 0xFFFF_FFFF | 1
    config.write(Header.BAR0 + 4, struct.pack("<I", 0xC101))
    config.write(Header.BAR0 + 8, struct.pack("<I", 0xC000))
    config.write(Header.COMMAND, MEMORY_ON)
    assert (config.answers(1), config.answers(2), config.answers(3)) == (False, True, False)
    assert (config.bar_address(1), config.bar_address(2)) == (None, 0xC000)
    config.write(Header.COMMAND, b"\1\0")
    assert (config.answers(1), config.answers(2)) == (True, False)
    assert config.bar_address(1) == 0xC100
    assert not config.overlaps_bar(0xC100, 4), "a port is not an address of memory"
    config.asleep = True
    assert not config.answers(1)


def test_io_space_is_a_bit_of_functions_that_use_it() -> None:
    for registers, kept in (({0: BaseAddress(16)}, 0), ({0: BaseAddress(16, space=Space.IO)}, 1)):
        config = config_of(registers)
        config.write(Header.COMMAND, b"\xff\xff")
        assert config.command & Command.IO_SPACE == kept


@pytest.mark.parametrize("size", [2048, 1 << 16, 1 << 20])
def test_rom(size: int) -> None:
    config = config_of({ROM: BaseAddress(size)})
    config.write(Header.ROM, b"\xff" * 4)
    assert config.dword(Header.ROM) == -size & 0xFFFF_FFFF | 1
    config.write(Header.ROM, struct.pack("<I", 0xFEB0_0000))
    config.write(Header.COMMAND, MEMORY_ON)
    assert not config.answers(ROM), "it is not enabled"
    config.write(Header.ROM, struct.pack("<I", 0xFEB0_0001))
    assert config.answers(ROM)
    assert config.bar_at(0xFEB0_0000 + size - 1, 1) == (ROM, size - 1)
    config.write(Header.COMMAND, bytes(2))
    assert not config.answers(ROM), "nor is Memory Space"
    config.reset(flr=True)
    config.write(Header.COMMAND, MEMORY_ON)
    assert config.bar_address(ROM) == 0xFEB0_0000
    config.reset()
    assert config.dword(Header.ROM) == 0


def test_without_a_rom_its_register_reads_0() -> None:
    config = config_of({0: BaseAddress(16)})
    config.write(Header.ROM, b"\xff" * 4)
    assert config.dword(Header.ROM) == 0


def test_what_answers_from_the_reset_on() -> None:
    config = ConfigSpace(Identity(1, 2, 3), {0: BaseAddress(16)}, Command.MEMORY_SPACE)
    assert config.answers(0)
    config.write(Header.COMMAND, bytes(2))
    assert not config.answers(0)
    config.reset()
    assert config.answers(0)


def test_resets_keep_the_kind() -> None:
    config = config_of({0: BaseAddress(0x1000, 64, True)})
    config.write(Header.COMMAND, MEMORY_ON)
    config.write(Header.BAR0, struct.pack("<Q", 0x38_0000_0000))
    config.reset(flr=True)
    assert config.read(Header.BAR0, 8) == struct.pack("<Q", 0x38_0000_000C)
    config.write(Header.COMMAND, MEMORY_ON)
    assert config.bar_address(0) == 0x38_0000_0000
    config.reset()
    assert config.read(Header.BAR0, 8) == struct.pack("<Q", 0xC)
    config.write(Header.COMMAND, MEMORY_ON)
    assert config.bar_address(0) is None


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="BAR1 is the upper half of BAR0"):
        config_of({0: BaseAddress(16, 64), 1: BaseAddress(16)})
    with pytest.raises(ValueError, match=r"BAR0 of 0x200 bytes; .* from 4 to 256"):
        config_of({0: BaseAddress(512, space=Space.IO)})
    with pytest.raises(ValueError, match="BAR0 of 0x18 bytes; make it a power of two"):
        config_of({0: BaseAddress(24)})
