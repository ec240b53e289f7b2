# SPDX-License-Identifier: Apache-2.0
"""Mappings by the kernel: who has each, and for how long. Against a driver that keeps books."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IONotReadyError,
    IOOptions,
    current_task,
    kernel_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapCopybackCache,
    kIOMapWriteCombineCache,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
)
from dma_rehearsal.guest.iobuffer.base.flags import PurgeableState
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.memory_pool import MemoryPool, make

PAGEABLE = kIODirectionInOut | kIOMemoryPageable
COPYBACK = int(kIOMapAnywhere | kIOMapCopybackCache)
WRITE_COMBINE = int(kIOMapAnywhere | kIOMapWriteCombineCache)
FIRST = 0xFFFF_C900_0000_0000


class Window:
    """A mapping by the kernel, with a descriptor of its own as the module's have."""

    def __init__(self, driver: Driver, address: int, length: int) -> None:
        self._driver, self.address, self.length = driver, address, length
        self._fd = os.memfd_create("window")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._driver.open.remove(self.address)

    def __del__(self) -> None:
        self.close()


class Pin:
    def __init__(self, driver: Driver, length: int) -> None:
        self._driver, self.length, self.closed = driver, length, False

    def segments(self) -> list[tuple[int, int]]:
        return [(0x1000_0000, self.length)]

    def kernel_map(self) -> Window:
        assert not self.closed
        return self._driver.window(self.length)

    def close(self) -> None:
        self.closed = True


class Driver:
    """``open``: the addresses at which the kernel has something mapped now."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self._next = FIRST
        self.pins: list[Pin] = []

    def window(self, length: int) -> Window:
        address, self._next = self._next, self._next + 16 * PAGE
        self.open.append(address)
        return Window(self, address, length)

    def kernel_map(self, physical: int, length: int, mode: CacheMode) -> Window:
        assert mode is CacheMode.COPYBACK
        window = self.window(length)
        window.address += physical % PAGE
        self.open[-1] = window.address
        return window

    def pin(self, address: int, length: int) -> Pin:
        assert address % PAGE == 0
        self.pins.append(Pin(self, length))
        return self.pins[-1]


@pytest.fixture
def driver() -> Iterator[Driver]:
    made: Any = Driver()
    dma_platform.driver = made
    yield made
    dma_platform.driver = None
    assert not made.open, "a mapping is left"


@pytest.fixture
def pageable() -> Iterator[None]:
    dma_platform.use_pools(PageablePool())
    yield
    dma_platform.use_pools()


def pageable_buffer(options: IOOptions = PAGEABLE) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, 2 * PAGE)


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("capacity", [100, 3 * PAGE])
def test_a_mapping_of_an_ordinary_buffer_lasts_until_its_unmap(
    driver: Driver, capacity: int
) -> None:
    with make(capacity) as memory:
        mapped = memory.createMappingInTask(kernel_task, 0, 1, 7, 50)
        gc.collect()
        (base,) = driver.open
        assert mapped.getVirtualAddress() == base + 7
        assert memory.kernel_map is None, "it is not the buffer's own"
        again = memory.createMappingInTask(kernel_task, 0, 1, 7, 50)
        assert again is mapped
        again.unmap()
        assert driver.open == [base]
        with memory.createMappingInTask(kernel_task, 0, 1, 0, 50) as other:
            assert driver.open == [base, other.getVirtualAddress()]
        assert driver.open == [base]
        with pytest.raises(IOBusyError, match="mapping"):
            memory.release()
        mapped.unmap()
        assert not driver.open


@pytest.mark.usefixtures("main")
def test_the_kernel_maps_memory_in_its_own_mode_alone(driver: Driver) -> None:
    with make(PAGE) as memory:
        with pytest.raises(IOBusyError, match="COPYBACK, not WRITE_COMBINE"):
            memory.createMappingInTask(kernel_task, 0, WRITE_COMBINE)
        assert not driver.open
        memory.createMappingInTask(kernel_task, 0, COPYBACK).unmap()


@pytest.mark.usefixtures("pageable")
@pytest.mark.parametrize("shared", [False, True])
def test_complete_leaves_a_mapping_alone(driver: Driver, shared: bool) -> None:
    """Pageable memory: the buffer's own mapping goes with its place, somebody else's does not."""
    options = PAGEABLE | kIOMemoryKernelUserShared if shared else PAGEABLE
    with pageable_buffer(options) as memory:
        with pytest.raises(IONotReadyError, match="prepare"):
            memory.createMappingInTask(kernel_task)
        memory.prepare()
        own = None if memory.kernel_map is None else memory.kernel_map.address
        assert (own is not None) is shared
        mapped = memory.createMappingInTask(kernel_task)
        place = mapped.getVirtualAddress()
        assert place != own
        assert place in driver.open
        memory.complete()
        assert driver.open == [place]
        assert mapped.getVirtualAddress() == place
        memory.prepare()
        memory.complete()
        assert driver.open == [place]
        mapped.unmap()
        assert not driver.open


@pytest.mark.usefixtures("pageable", "driver")
def test_purging_waits_for_a_mapping_that_keeps_the_pages() -> None:
    volatile = PurgeableState.kIOMemoryPurgeableVolatile
    with pageable_buffer(PAGEABLE | kIOMemoryPurgeable) as memory:
        memory.prepare()
        mapped = memory.createMappingInTask(kernel_task)
        memory.complete()
        with pytest.raises(IOBusyError, match="kernel_task"):
            memory.setPurgeable(volatile)
        keep = memory.setPurgeable(PurgeableState.kIOMemoryPurgeableKeepCurrent)
        assert keep is PurgeableState.kIOMemoryPurgeableNonVolatile
        mapped.unmap()
        memory.setPurgeable(volatile)


def test_a_mapping_that_is_dropped_goes(main: MemoryPool, driver: Driver) -> None:
    with make(PAGE) as memory:
        held = [memory.createMappingInTask(kernel_task)]
        assert len(driver.open) == 1
        with pytest.warns(ResourceWarning, match="was not unmapped"):
            held.clear()
        assert not driver.open
    assert main.free_size() == main.size


@pytest.mark.usefixtures("main")
def test_a_forked_child_keeps_no_mapping(driver: Driver) -> None:
    """The module's mapping lasts until the last copy of its descriptor is closed."""
    with make(PAGE) as memory, memory.createMappingInTask(kernel_task):
        pid = os.fork()
        if pid == 0:
            os._exit(len(driver.open))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(driver.open) == 1
