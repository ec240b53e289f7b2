# SPDX-License-Identifier: Apache-2.0
"""The line that made a descriptor, and the owners of bus addresses, now and before."""

from __future__ import annotations

import asyncio
import inspect
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODMACommand,
    IOGeneralMemoryDescriptor,
    IOMultiMemoryDescriptor,
    IOSubMemoryDescriptor,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
)
from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from tests.unit.guest.memory_pool import make
from tests.unit.guest.scattered import Bus, Scattered

HERE = str(Path(__file__).relative_to(Path.cwd()))


@pytest.fixture(autouse=True)
def _forgotten(main: object) -> Iterator[None]:  # noqa: ARG001
    """Each test begins with nothing made."""
    provenance._after_fork_in_child()
    yield
    provenance._after_fork_in_child()


def line(offset: int = 0) -> str:
    """Return this file's name and the caller's line, ``offset`` lines on."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return f"{HERE}:{frame.f_back.f_lineno + offset}"


def buffer(capacity: int = 64) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, capacity)


# The line.


def test_each_kind_of_descriptor_knows_the_line_that_made_it() -> None:
    memory, expected = IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, 64), line()
    assert memory.made_at == expected
    assert f"made at {expected}>" in repr(memory)
    part, expected = IOSubMemoryDescriptor.withSubRange(memory, 0, 8, kIODirectionIn), line()
    assert part.made_at == expected
    both, expected = IOMultiMemoryDescriptor.withDescriptors([memory], kIODirectionIn), line()
    assert both.made_at == expected
    task, direction = current_task(), kIODirectionIn
    found, expected = IOGeneralMemoryDescriptor.withAddressRange(PAGE, 8, direction, task), line()
    assert found.made_at == expected
    for each in part, both, found:
        assert f"made at {each.made_at}>" in repr(each)
        each.release()
    command, expected = IODMACommand.withSpecification(), line()
    assert command.made_at == expected
    mapped, expected = memory.map(), line()
    assert mapped.made_at == expected
    mapped.unmap()
    memory.release()


def test_bounce_memory_is_its_commands_and_its_line_is_that_of_prepare() -> None:
    bus = Bus()
    memory = Scattered(bus, [0x1_0000_1000], PAGE)
    memory.prepare()
    command = IODMACommand.withSpecification(numAddressBits=32, bounce_allocator=bus.bounce)
    command.setMemoryDescriptor(memory)
    (bounce,) = bus.bounces
    record = bounce._record
    assert record.name == f"bounce memory: Scattered of {PAGE} bytes"
    assert record.segments == [(bounce.getPhysicalAddress(), PAGE)]
    command.clearMemoryDescriptor()
    memory.complete()
    bus.close()


def test_what_a_device_reaches_is_bounce_memory_for_the_part_that_bounces() -> None:
    bus = Bus()
    memory = Scattered(bus, [0x5000, 0x1_0000_1000, 0x9000], 3 * PAGE)
    memory.prepare()
    assert memory.reached_segments == memory.last_segments
    command = IODMACommand.withSpecification(numAddressBits=32, bounce_allocator=bus.bounce)
    command.setMemoryDescriptor(memory)
    (bounce,) = bus.bounces
    at = bounce.getPhysicalAddress()
    assert memory.reached_segments == [(0x5000, PAGE), (0x9000, PAGE), (at, PAGE)]
    command.clearMemoryDescriptor()
    memory.complete()
    memory.prepare()
    assert memory.reached_segments == memory.last_segments, "another preparation, another account"
    memory.complete()
    bus.close()


def test_modules_that_make_descriptors_for_others_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make(64) as memory:
        assert "memory_pool.py:" in memory.made_at
    monkeypatch.setattr(provenance, "_transparent", {*provenance._transparent})
    provenance.transparent("tests.unit.guest.memory_pool")
    with make(64) as memory:
        assert memory.made_at == line(-1)
    provenance.transparent()


def test_what_is_made_with_all_frames_passed_over_has_the_place_of_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, kept in ("_transparent", {*provenance._transparent}), ("_ends", {}):
        monkeypatch.setattr(provenance, name, kept)
    provenance.transparent("tests.unit.guest.memory_pool")
    provenance.ends_at(__name__, ("test_other.py", 7))
    with make(64) as memory:
        assert memory.made_at == "test_other.py:7"
    provenance._ends.clear()
    provenance.transparent()
    with make(64) as memory:
        assert memory.made_at == line(-1)


def test_the_line_of_the_async_variant_is_not_the_threads() -> None:
    async def user() -> str:
        made = await IOBufferMemoryDescriptor.inTaskWithOptionsAsync(
            current_task(), kIODirectionInOut, 64
        )
        with made:
            return made.made_at

    assert asyncio.run(user()).startswith(HERE)


def test_a_place_can_be_stated() -> None:
    with provenance.made_by("process 7"):
        memory = buffer()
    assert memory.made_at == "process 7"
    memory.release()
    with buffer() as memory:
        assert memory.made_at.startswith(HERE)


def test_the_clock_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    with buffer() as memory:
        assert memory.made_sequence == 0
    monkeypatch.setattr(provenance, "clock", lambda: 41)
    with buffer() as memory:
        assert memory.made_sequence == 41


# Owners of bus addresses.


def test_what_was_released_is_told_with_its_lines() -> None:
    other, memory = buffer(PAGE), buffer(100)
    address, made = memory.getPhysicalAddress(), memory.made_at
    assert provenance.describe(address + 4, 8) == (
        f"8 bytes at {address + 4:#x}: 4 bytes into IOBufferMemoryDescriptor of 100 bytes, "
        f"kIODirectionInOut, made at {made}"
    )
    memory.release()
    released = line(-1)
    other.prepare()
    said = provenance.describe(address, 4)
    other.complete()
    other.release()
    assert f"made at {made}, released at {released}, " in said
    assert said.endswith("1 operation ago")
    assert len(provenance.live()) == 0


def test_memory_in_use_comes_before_what_lay_there() -> None:
    old = buffer()
    address = old.getPhysicalAddress()
    old.release()
    pool_registry.wake()
    with buffer() as new:
        assert new.getPhysicalAddress() == address, "the heap gives the lowest block"
        assert "released" not in provenance.describe(address, 64)


def test_what_reaches_past_a_buffer_and_what_is_beside_it() -> None:
    with buffer(100) as memory:
        address = memory.getPhysicalAddress()
        assert "from 90 bytes into, to 10 behind," in provenance.describe(address + 90, 20)
        assert "from 16 bytes before the start of" in provenance.describe(address - 16, 20)
        assert "; 6 bytes before IOBuffer" in provenance.describe(address - 16, 10)
        assert "; 28 bytes behind IOBuffer" in provenance.describe(address + 128, 10)
    provenance._after_fork_in_child()
    assert "has made nothing" in provenance.describe(address, 1)


def test_the_ranges_are_those_of_the_preparation() -> None:
    bus = Bus()
    memory = Scattered(bus, [0x5000, 0x9000], 2 * PAGE)
    assert not memory._record.segments
    memory.prepare()
    assert memory._record.segments == [(0x5000, PAGE), (0x9000, PAGE)]
    memory.complete()
    completed = line(-1)
    assert f"completed at {completed}, 0 operations ago" in provenance.describe(0x9000, 1)
    (first, second) = provenance.table()
    assert (first["address"], second["address"]) == (0x5000, 0x9000)
    assert (first["completed"], first["released"], first["ago"]) == (completed, "", 0)
    bus.close()


def test_a_row_says_what_a_segment_is() -> None:
    with IOBufferMemoryDescriptor.withOptions(kIODirectionOut, 100) as memory:
        assert provenance.table() == [
            {
                "address": memory.getPhysicalAddress(),
                "length": 100,
                "name": "IOBufferMemoryDescriptor of 100 bytes",
                "direction": "kIODirectionOut",
                "made": memory.made_at,
                "completed": "",
                "released": "",
                "released_after": 0,
                "ago": 0,
            }
        ]
        memory.setDirection(kIODirectionIn)
        assert provenance.table()[0]["direction"] == "kIODirectionIn"


def test_a_row_of_what_is_released_says_when_by_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with IOBufferMemoryDescriptor.withOptions(kIODirectionOut, 100) as memory:
        monkeypatch.setattr(provenance, "clock", lambda: 41)
        assert provenance.table()[0]["released_after"] == 0
        memory.release()
        monkeypatch.setattr(provenance, "clock", lambda: 42)
        assert provenance.table()[0]["released_after"] == 41


def test_the_table_is_cut_and_begins_with_what_is_asked_about() -> None:
    made = [buffer(PAGE) for _ in range(8)]
    assert len(provenance.table(limit=3)) == 3
    assert provenance.table(1)[0]["address"] == made[-1].getPhysicalAddress(), "the newest"
    asked = made[3].getPhysicalAddress()
    assert provenance.table(1, near=[asked + 17])[0]["address"] == asked
    for each in made:
        each.release()


# Bounds.


def test_a_dropped_buffer_is_told_by_name_and_line() -> None:
    with pytest.warns(ResourceWarning, match=r"of 300 bytes, .* made at .* was not released"):
        IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, 300)
    dropped = line(-1)
    with buffer(64):
        pass
    name = "IOBufferMemoryDescriptor of 300 bytes"
    assert provenance.dropped() == [(name, dropped)]
    assert provenance.dropped(take=True) == [(name, dropped)]
    assert provenance.dropped() == []
    assert provenance.dropped_count() == 1
    assert "dropped without release()" in provenance.recent()[1].history()


def test_the_tables_are_bounded() -> None:
    for _ in range(provenance.RECENT_MAX + 10):
        buffer().release()
    assert len(provenance.recent()) == provenance.RECENT_MAX
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(provenance.DROPPED_MAX + 10):
            buffer()
    assert len(provenance.dropped()) == provenance.DROPPED_MAX
    assert provenance.dropped_count() == provenance.DROPPED_MAX + 10
    assert provenance.live() == []


def test_descriptors_that_own_nothing_are_forgotten_when_they_are_garbage() -> None:
    with buffer() as memory:
        for _ in range(3000):
            IOSubMemoryDescriptor.withSubRange(memory, 0, 8, kIODirectionIn)
        assert len(provenance.live()) == 1
        assert len(provenance._live) < 2500, "swept now and then"


def test_the_segments_of_one_descriptor_are_bounded() -> None:
    bus = Bus()
    count = provenance.SEGMENTS_MAX + 10
    memory = Scattered(bus, range(0, 2 * count * PAGE, 2 * PAGE), count * PAGE)
    memory.prepare()
    record = memory._record
    assert len(record.segments) == provenance.SEGMENTS_MAX
    memory.complete()
    record.release()
    assert len(record.segments) == provenance.RECENT_SEGMENTS_MAX
    bus.close()


def test_a_fork_knows_nothing_of_its_parents() -> None:
    with buffer():
        pid = os.fork()
        if pid == 0:
            left = provenance.live() or provenance.recent() or provenance.dropped()
            os._exit(1 if left else 0)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(provenance.live()) == 1


def test_a_record_keeps_no_descriptor_alive() -> None:
    record = provenance.Record("memory", IODirection.kIODirectionIn)
    assert provenance.live() == [record]
    del record
    assert provenance.live() == []


def test_what_is_left_of_a_range_lies_between_its_parts() -> None:
    parts = [(14, 2), (10, 2)]
    assert [*provenance.without(parts, 8, 12)] == [(0, 2), (4, 2), (8, 4)]
    assert [*provenance.without(parts, 10, 6)] == [(2, 2)]
    assert [*provenance.without([], 8, 12)] == [(0, 12)]
