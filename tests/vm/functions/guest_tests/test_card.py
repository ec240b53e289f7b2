# SPDX-License-Identifier: Apache-2.0
"""Two functions of one slot, and a device beside them: addresses, DMA, interrupts, resets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers import DriverFunction, Interrupt, PciError, PciFunction
from dma_rehearsal.guest.iobuffer import kIODirectionIn, kIODirectionOut
from dma_rehearsal.guest.testkit import Announce, Attest, MakeBuffer, Patterns

SIZE = 1000

VENDOR, FRONT, BACK, BESIDE = 0x1234, 0xF000, 0xF001, 0xF002
ADDRESS, LENGTH, CONTROL, STATUS, RESET_ALL = 0x00, 0x08, 0x0C, 0x10, 0x14
START, TO_MEMORY = 1, 2
DONE, REFUSED = 1, 2
TIMEOUT_S = 5.0


class CopierDriver:
    """One function, with its interrupt."""

    def __init__(self, pci: PciFunction) -> None:
        self.pci = pci
        pci.enable()
        pci.bind()
        if (node := pci.driver_node()) is None:
            raise PciError(f"{pci.address} has no device file")
        self.driver = DriverFunction(node)
        self.driver.set_bus_master(True)
        self.registers, self.memory = pci.bar(0), pci.bar(2)
        self.interrupt = Interrupt(self.driver, vector=0)

    def start(self, address: int, length: int, *, to_memory: bool = False) -> None:
        """Start a copy between memory and BAR2."""
        self.registers.set64(ADDRESS, address)
        self.registers[LENGTH] = length
        self.registers[CONTROL] = START | TO_MEMORY * to_memory

    def end(self) -> int:
        """Wait for the interrupt; return STATUS."""
        if not self.interrupt.wait(TIMEOUT_S):
            raise PciError(f"{self.pci.address}: no interrupt within {TIMEOUT_S} s")
        return self.registers[STATUS]

    def copy(self, address: int, length: int, *, to_memory: bool = False) -> int:
        """Do a copy; return STATUS."""
        self.start(address, length, to_memory=to_memory)
        return self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt.close()
        self.driver.close()
        self.pci.close()


@pytest.fixture
def front() -> Iterator[CopierDriver]:
    with CopierDriver(PciFunction.find(VENDOR, FRONT)) as found:
        yield found


@pytest.fixture
def back(front: CopierDriver) -> Iterator[CopierDriver]:
    with CopierDriver(front.pci.sibling(3)) as found:
        yield found


@pytest.fixture
def beside() -> Iterator[CopierDriver]:
    with CopierDriver(PciFunction.find(VENDOR, BESIDE)) as found:
        yield found


def test_functions_share_a_slot_and_the_device_beside_has_its_own() -> None:
    front, back, beside = (PciFunction.find(VENDOR, each) for each in (FRONT, BACK, BESIDE))
    slot, _, number = front.address.rpartition(".")
    assert number == "0"
    assert back.address == front.sibling(3).address == f"{slot}.3"
    assert beside.address.endswith("06.0")
    with pytest.raises(PciError, match=r"its device has no function 1"):
        front.sibling(1)


@pytest.mark.promise("kIODirectionOut")
def test_each_function_reads_main_memory(
    front: CopierDriver,
    back: CopierDriver,
    beside: CopierDriver,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
) -> None:
    memory, content = buffer(kIODirectionOut, SIZE), data.take(SIZE)
    memory.writeBytes(0, content)
    for each in front, back, beside:
        assert each.copy(memory.getPhysicalAddress(), SIZE) == DONE
        assert bytes(each.memory.data[:SIZE]) == content
    attest.direction(memory)


@pytest.mark.promise("kIODirectionIn")
def test_functions_write_main_memory_at_the_same_time(
    front: CopierDriver, back: CopierDriver, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = [buffer(kIODirectionIn, SIZE) for _ in range(2)]
    content = [data.take(SIZE) for _ in range(2)]
    for each, bytes_ in zip((front, back), content, strict=True):
        each.memory.data[:SIZE] = bytes_
    for each, target in zip((front, back), memory, strict=True):
        each.start(target.getPhysicalAddress(), SIZE, to_memory=True)
    for each, target, bytes_ in zip((front, back), memory, content, strict=True):
        assert each.end() == DONE
        assert target.readBytes(0, SIZE) == bytes_
        attest.direction(target)


@pytest.mark.unprotected
def test_functions_reach_memory_of_each_other(
    front: CopierDriver, back: CopierDriver, beside: CopierDriver, data: Patterns
) -> None:
    for writer, owner in ((front, back), (back, front), (beside, back), (front, beside)):
        content = data.take(SIZE)
        writer.memory.data[:SIZE] = content
        place = owner.pci.bar_address(2)
        assert writer.copy(place + 8, SIZE, to_memory=True) == DONE
        assert bytes(owner.memory.data[8 : 8 + SIZE]) == content


def test_the_protection_unit_is_before_each_function(
    front: CopierDriver, back: CopierDriver, buffer: MakeBuffer, expects: Announce
) -> None:
    memory = buffer(kIODirectionIn, SIZE)
    for each in front, back:
        with expects(DmaReason.PROTECTION_DIRECTION, count=1):
            status = each.copy(memory.getPhysicalAddress(), SIZE)
        assert status == REFUSED | DmaReason.PROTECTION_DIRECTION << 8


def test_a_reset_of_one_function_leaves_the_other(front: CopierDriver, back: CopierDriver) -> None:
    for each in front, back:
        each.registers.set64(ADDRESS, 0x1234_5678_9ABC)
    front.pci.reset()
    front.pci.enable()
    assert front.registers[ADDRESS] == 0
    assert back.registers.get64(ADDRESS) == 0x1234_5678_9ABC


def test_a_reset_register_resets_the_card_and_not_the_device_beside(
    front: CopierDriver, back: CopierDriver, beside: CopierDriver
) -> None:
    for each in front, back, beside:
        each.registers.set64(ADDRESS, 0x1234_5678_9ABC)
    front.registers[RESET_ALL] = 1
    for each in front, back:
        while each.registers[ADDRESS]:
            pass
        assert each.pci.bus_master
    assert beside.registers.get64(ADDRESS) == 0x1234_5678_9ABC
