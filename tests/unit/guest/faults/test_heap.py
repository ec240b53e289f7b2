# SPDX-License-Identifier: Apache-2.0
"""Faults of the heap break their promise, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.faults import registry
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, current_task, kIODirectionInOut
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.heap import Heap


@pytest.fixture(autouse=True)
def _sound_again() -> Iterator[None]:
    sound = {name: getattr(Heap, name) for name in ("allocate", "release", "release_late")}
    yield
    for name, method in sound.items():
        setattr(Heap, name, method)


def make(capacity: int, alignment: int = 1) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, capacity, alignment
    )


def free_size() -> int:
    return sum(heap.free_size() for heap in pool_registry.known().values())


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("alignment", [2, 64, 256, 4096, 65536])
def test_misaligned_by_half(alignment: int) -> None:
    registry.patch("allocator-misaligned")
    before = free_size()
    for capacity in (1, 100, 5000):
        buffers = [make(capacity, alignment) for _ in range(3)]
        for number, buffer in enumerate(buffers):
            assert buffer.getPhysicalAddress() % alignment == alignment // 2
            with buffer.footprint() as view:
                view[:] = bytes([number + 1]) * len(view)
        for number, buffer in enumerate(buffers):
            assert bytes(buffer.view()) == bytes([number + 1]) * capacity, "still apart"
            buffer.release()
    assert free_size() == before


@pytest.mark.usefixtures("main")
def test_overlapping_and_back() -> None:
    registry.patch("allocator-overlap")
    before = free_size()
    for order in itertools.permutations(range(3)):
        buffers = [make(100) for _ in range(3)]
        assert len({buffer.getPhysicalAddress() for buffer in buffers}) == 1
        for index in order:
            with buffers[index].view() as view:
                view[:] = bytes(100)
            buffers[index].release()
        assert free_size() == before
    dropped, kept = make(100), make(100)
    with pytest.warns(ResourceWarning, match="not released"):
        del dropped
    kept.release()
    assert free_size() == before


@pytest.mark.usefixtures("main")
def test_overlap_leaves_large_buffers_apart() -> None:
    registry.patch("allocator-overlap")
    with make(65536) as first, make(65536) as second:
        assert abs(first.getPhysicalAddress() - second.getPhysicalAddress()) >= 65536


def test_faults_of_other_parts_do_nothing_here() -> None:
    sound = Heap.allocate
    for name in ("device-read-flip", "driver-wrong-cache", "witness-ignores-pat"):
        registry.patch(name)
    assert Heap.allocate is sound


def test_unknown_fault_of_the_allocator_is_an_error() -> None:
    with pytest.raises(registry.UnknownFault, match="allocator-misaligned"):
        registry.patch("allocator-nonsense")
