# SPDX-License-Identifier: Apache-2.0
"""Unplugs and replugs an endpoint whose driver is bound: idle, in mid-DMA, and by surprise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dma_rehearsal.guest.drivers import DriverFunction, PciError, PciFunction
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, kIODirectionInOut
from dma_rehearsal.guest.testkit import EndpointSlot, MakeBuffer

VENDOR, DEVICE = 0x1234, 0x4071
ADDRESS, COPY, STREAM, DONE = 0x00, 0x08, 0x0C, 0x10
LIMIT_S = 5.0


@contextmanager
def bound() -> Iterator[PciFunction]:
    with PciFunction.find(VENDOR, DEVICE) as function:
        function.bind()
        node = function.driver_node()
        if node is None:
            raise PciError(f"{function.address} has no device file")
        driver = DriverFunction(node)
        try:
            driver.set_bus_master(True)
            yield function
        finally:
            driver.close()


def check_it_copies(memory: IOBufferMemoryDescriptor, text: bytes) -> int:
    """Bind the driver, and have the device copy; return how often it did before."""
    with bound() as function:
        bar = function.bar(0)
        bar.set64(ADDRESS, memory.getPhysicalAddress())
        memory.writeBytes(0, text)
        before = bar[DONE]
        bar[COPY] = 1  # in mapped memory it is done before the next read is answered
        assert bar[DONE] == before + 1
        assert bytes(memory.readBytes(8, 8)) == text[::-1]
        return before


def stream(function: PciFunction, memory: IOBufferMemoryDescriptor) -> None:
    """Have the device copy again and again; return when it does."""
    bar = function.bar(0)
    bar.set64(ADDRESS, memory.getPhysicalAddress())
    bar[STREAM] = 1
    deadline = time.monotonic() + LIMIT_S
    while bar[DONE] < 3:
        assert time.monotonic() < deadline, "the device does not copy"


@pytest.fixture
def memory(buffer: MakeBuffer) -> IOBufferMemoryDescriptor:
    return buffer(kIODirectionInOut, 16)


def test_an_idle_device_is_unplugged_and_comes_back(
    endpoint_slot: EndpointSlot, memory: IOBufferMemoryDescriptor
) -> None:
    check_it_copies(memory, b"together")
    addresses = endpoint_slot.functions
    endpoint_slot.unplug()
    assert endpoint_slot.functions == []
    assert endpoint_slot.plug() == addresses
    assert check_it_copies(memory, b"at last!") == 0, "its registers are those of a reset"


def test_by_the_attention_button(
    endpoint_slot: EndpointSlot, memory: IOBufferMemoryDescriptor
) -> None:
    endpoint_slot.press_button()
    endpoint_slot.plug()
    check_it_copies(memory, b"pressed!")


def test_in_the_middle_of_dma(
    endpoint_slot: EndpointSlot, memory: IOBufferMemoryDescriptor
) -> None:
    with bound() as function:
        stream(function, memory)
        endpoint_slot.unplug()
    endpoint_slot.plug()
    check_it_copies(memory, b"oncemore")


def test_by_surprise(endpoint_slot: EndpointSlot, memory: IOBufferMemoryDescriptor) -> None:
    with bound() as function:
        bar = function.bar(0)
        stream(function, memory)
        endpoint_slot.pull()
        gone = bar[DONE]
    endpoint_slot.plug()
    check_it_copies(memory, b"replaced")
    assert gone in (0, 0xFFFF_FFFF), "QEMU has nothing there"
