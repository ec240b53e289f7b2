# SPDX-License-Identifier: Apache-2.0
"""Descriptors made of others that are dropped while they are prepared: no device keeps a right."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOGeneralMemoryDescriptor,
    IOMemoryDescriptor,
    IOMultiMemoryDescriptor,
    IOSubMemoryDescriptor,
    current_task,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.base import interfaces
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.iobuffer.descriptors.pinned import Area, Pins
from tests.unit.guest.memory_pool import MemoryPool

IN_OUT = IODirection.kIODirectionInOut
SIZE = 3 * 4096
sub_of = IOSubMemoryDescriptor.withSubRange
multi_of = IOMultiMemoryDescriptor.withDescriptors


class Order:
    """An access control, a pinner and a mapper that write down what is done, in its order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.granted: list[tuple[int, int]] = []
        self.pins = Pins()

    def grant(self, address: int, length: int, direction: IODirection) -> object:  # noqa: ARG002
        self.granted.append((address, length))
        return address, length

    def withdraw(self, grant: object) -> None:
        self.granted.remove(grant)  # type: ignore[arg-type]
        self.done.append("withdraw")

    def reclaim(self) -> None:
        pass

    def pin(self, address: int, length: int, *, write: bool = True) -> interfaces.Pinned:
        pinned, order = self.pins.pin(address, length, write=write), self

        class Pin:
            def segments(self) -> list[tuple[int, int]]:
                return list(pinned.segments())

            def close(self) -> None:
                order.done.append("unpin")
                pinned.close()

        return Pin()

    def map(self, va: int, length: int, **_: object) -> interfaces.BusMapping:
        del length
        order = self

        class Mapped:
            address = 0x7000_0000 + va % 4096

            def close(self) -> None:
                order.done.append("unmap")

        return Mapped()


@pytest.fixture
def order() -> Iterator[Order]:
    made = Order()
    with dma_platform.replaced(access_control=made, pinner=made):
        yield made
    gc.collect()


def part(memory: IOMemoryDescriptor) -> IOMemoryDescriptor:
    return sub_of(memory, 100, 4096, IN_OUT)


def part_of_a_part(memory: IOMemoryDescriptor) -> IOMemoryDescriptor:
    return sub_of(part(memory), 10, 200, IN_OUT)


def several(memory: IOMemoryDescriptor) -> IOMemoryDescriptor:
    return multi_of([part(memory), sub_of(memory, 8192, 100, IN_OUT)], IN_OUT)


def itself(memory: IOMemoryDescriptor) -> IOMemoryDescriptor:
    return memory


Make = Callable[[IOMemoryDescriptor], IOMemoryDescriptor]
KINDS = [itself, part, part_of_a_part, several]


def range_of(area: Area) -> IOMemoryDescriptor:
    return IOGeneralMemoryDescriptor.withAddressRange(area.address, SIZE, IN_OUT, current_task())


def buffer() -> IOMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionInOut, SIZE)


def drop(made: Callable[[], IOMemoryDescriptor], make: Make) -> None:
    kept = make(made())
    kept.prepare()
    kept.prepare()
    del kept
    gc.collect()


@pytest.mark.parametrize("make", KINDS)
def test_dropped_with_the_buffer(main: MemoryPool, order: Order, make: Make) -> None:
    with pytest.warns(ResourceWarning, match="was not released"):
        drop(buffer, make)
    assert not order.granted
    assert order.done
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, main.size, pool="main"
    ):
        pass  # all of it is free


@pytest.mark.parametrize("make", KINDS)
def test_dropped_with_a_range(order: Order, make: Make) -> None:
    """The pages go back when no device may reach them any more, and not before."""
    area = Area(3)
    with pytest.warns(ResourceWarning, match="prepared, and was not released"):
        drop(lambda: range_of(area), make)
    assert not order.granted
    assert not order.pins.open
    assert order.done[-1] == "unpin"


def test_a_range_that_is_dropped_behind_a_mapper_is_unmapped(order: Order) -> None:
    area = Area(3)
    before, dma_platform.iommu = dma_platform.iommu, order
    try:
        with pytest.warns(ResourceWarning):
            drop(lambda: range_of(area), itself)
    finally:
        dma_platform.iommu = before
    assert order.done == ["withdraw", "withdraw", "unmap", "unpin"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", KINDS)
def test_what_is_not_prepared_is_dropped_in_silence(order: Order, make: Make) -> None:
    made = make(range_of(Area(3)))
    made.prepare()
    made.complete()
    del made
    gc.collect()
    assert not order.granted
