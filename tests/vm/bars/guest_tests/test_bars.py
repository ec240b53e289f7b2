# SPDX-License-Identifier: Apache-2.0
"""Each kind of BAR as the guest's CPU and Linux meet it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.drivers import DriverFunction, Interrupt
from dma_rehearsal.guest.drivers.pci_bars import Bar, PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction

VENDOR, DEVICE = 0x1234, 0xBA25
GIB = 1 << 30
IO, MEMORY, PREFETCHABLE, MEMORY_64 = 0x100, 0x200, 0x2000, 0x100000  # Linux's IORESOURCE_ flags
ROM = 6
TIMEOUT_S = 5.0


@pytest.fixture
def function() -> Iterator[PciFunction]:
    with PciFunction.find(VENDOR, DEVICE) as found:
        found.enable()
        yield found


@pytest.fixture
def parts(function: PciFunction) -> Bar:
    return function.bar(2)


def resource(function: PciFunction, number: int) -> tuple[int, int, int]:
    """Return the first address, the bytes and Linux's flags of a BAR, or of the ROM."""
    line = (function.folder / "resource").read_text().splitlines()[number]
    first, last, flags = (int(word, 16) for word in line.split())
    return first, last - first + 1, flags


def test_linux_knows_each_kind(function: PciFunction) -> None:
    first, size, flags = resource(function, 0)
    assert first >= 4 * GIB
    assert size == 8 * GIB
    assert flags & (MEMORY | PREFETCHABLE | MEMORY_64) == MEMORY | PREFETCHABLE | MEMORY_64
    assert function.bar_address(0) == first
    _, size, flags = resource(function, 2)
    assert (size, flags & (MEMORY | PREFETCHABLE | MEMORY_64)) == (0x10000, MEMORY | MEMORY_64)
    first, size, flags = resource(function, 4)
    assert (size, flags & (IO | MEMORY)) == (32, IO)
    assert function.bar_address(4) == first
    assert resource(function, ROM)[1] == 4096
    for number in (1, 3, 5):
        assert resource(function, number) == (0, 1, 0), "an upper half, or nothing"


@pytest.mark.parametrize("offset", [0, 3 * GIB, 8 * GIB - mmap.PAGESIZE])
def test_memory_above_4_gib(function: PciFunction, offset: int) -> None:
    page = function.window(0, offset, mmap.PAGESIZE)
    page.set64(0, offset | 0x5A)
    page.set64(0xFF8, 0x0123_4567_89AB_CDEF)
    assert [page.get64(at) for at in (0, 8, 0xFF8)] == [offset | 0x5A, 0, 0x0123_4567_89AB_CDEF]


def test_ports_reach_the_registers(function: PciFunction) -> None:
    page, ports = function.window(0, 0, mmap.PAGESIZE), function.ports(4)
    page.data[0x21] = 0xA5
    ports.store(0, 0x1234_5678)
    assert (ports.load(0), ports.load(2, 2)) == (0x1234_5678, 0x1234)
    ports.store(4, 0x21, 1)
    assert ports.load(8, 1) == 0xA5
    ports.store(8, 0x3C, 1)
    assert page.data[0x21] == 0x3C
    with pytest.raises(PciError, match="8 bytes at 0x0: Invalid argument; use 1, 2 or 4 bytes"):
        ports.load(0, 8)


def test_the_rom(function: PciFunction) -> None:
    image = function.rom()
    assert image[:2] == b"\x55\xaa"
    assert image.count(b"the data of the ROM ") == 200
    assert len(image) % 512 == 0


def test_parts_of_one_bar(parts: Bar) -> None:
    parts[0] = 0x1111_2222
    parts[0x1000] = 0x3333_4444
    parts[0x2000] = 0
    assert (parts[0], parts[4], parts[0x1000]) == (0x1111_2222, 0, 0x3333_4444)
    assert bytes(parts.data[0x2000:0x2009]) == b"read only"
    assert parts.load(0x5010, 4) == 0x5010, "a callback"
    parts.store(0x5FF8, 0x0102_0304_0506_0708, 8)
    assert parts.load(0x5100, 8) == 0x0506_0708 << 32 | 0x5100
    assert [parts[offset] for offset in (8, 0x6000, 0xFFFC)] == [0, 0, 0], "between the parts"


def test_the_table_in_the_middle_of_the_parts(function: PciFunction, parts: Bar) -> None:
    function.bind()
    node = function.driver_node()
    assert node is not None
    driver = DriverFunction(node)
    try:
        for vector in (0, 3):
            interrupt = Interrupt(driver, vector=vector)
            driver.set_bus_master(True)
            parts[4] = vector
            assert interrupt.wait(TIMEOUT_S), f"vector {vector}"
            interrupt.close()
        assert parts[0x3000] >> 20 == 0xFEE, "where Linux has vector 0 sent"
    finally:
        driver.close()


def test_a_reset_leaves_the_places_and_clears_the_content(
    function: PciFunction, parts: Bar
) -> None:
    parts[0], parts[0x1000] = 5, 6
    page = function.window(0, 3 * GIB, mmap.PAGESIZE)
    page[0] = 7
    before = [resource(function, number) for number in (0, 2, 4, ROM)]
    function.reset()
    function.enable()
    assert [resource(function, number) for number in (0, 2, 4, ROM)] == before
    assert (parts[0], parts[0x1000], page[0]) == (0, 0, 0)
    page[0] = 8
    assert page[0] == 8
    assert function.rom()[:2] == b"\x55\xaa"
