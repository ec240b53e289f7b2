# SPDX-License-Identifier: Apache-2.0
"""Bytes that no DMA touched, lists that were cut, and data that stays in a bounce buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODMACommand,
    IOMultiMemoryDescriptor,
    IOReturn,
    IOSubMemoryDescriptor,
    IOUnsupportedError,
    kIODirectionIn,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.base import mistakes, provenance
from dma_rehearsal.guest.iobuffer.base.interfaces import Untouched
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.descriptors.coverage import CoverageError
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma.prepared_transfer import UnfinishedList
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.scattered import IN, IN_OUT, OUT, Bus, Scattered

pytestmark = pytest.mark.filterwarnings(
    "ignore::dma_rehearsal.guest.iobuffer.base.mistakes.IOMistakeWarning"
)


class Watched(Bus):
    """A bus that is seen: an evidence of what a device wrote and read there."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[int, bool, int, int]] = []
        self.numbers = itertools.count(1)
        self.newest = 0
        self.known = True

    def dma(self, address: int, length: int, *, write: bool) -> None:
        self.newest = next(self.numbers)
        self.log.append((self.newest, write, address, length))

    def untouched(
        self, address: int, length: int, direction: IODirection, since: int
    ) -> Untouched | None:
        if not self.known:
            return None
        left = {
            byte
            for byte in range(address, address + length)
            if not any(
                number > since
                and direction & (IN if write else OUT)
                and start <= byte < start + size
                for number, write, start, size in self.log
            )
        }
        return Untouched(len(left), min(left, default=address + length) - address)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    made = Watched()
    monkeypatch.setattr(provenance, "clock", lambda: made.newest)
    before, dma_platform.dma_evidence = dma_platform.dma_evidence, made
    coverage.begin()
    mistakes.taken()
    yield made
    dma_platform.dma_evidence = before
    coverage.begin()
    made.close()


def scattered(bus: Watched, direction: IODirection = IN) -> Scattered:
    return Scattered(bus, [0x5000, 0x9000], 2 * PAGE, direction)


# Coverage.


def test_the_bytes_that_no_dma_touched_are_told_across_segments(bus: Watched) -> None:
    memory = scattered(bus)
    memory.prepare()
    bus.dma(0x5000, PAGE, write=True)
    bus.dma(0x9000, 1024, write=True)
    memory.complete()
    assert coverage.lines() == [
        f"Scattered of 8192 bytes, kIODirectionIn, made at {memory.made_at}: prepared 8192 bytes "
        "for In; no DMA touched 3072 of them, from offset 5120"
    ]


def test_strict_raises_when_it_is_completed(bus: Watched) -> None:
    memory = scattered(bus)
    memory.prepare()
    with coverage.strict(), pytest.raises(CoverageError, match="touched any of them:") as raised:
        memory.complete()
    assert raised.value.code is IOReturn.kIOReturnUnderrun
    assert memory.prepared == 0, "done all the same"
    memory.prepare()
    memory.complete()


@pytest.mark.parametrize(
    ("direction", "write", "said"),
    [
        *((IN, True, False), (IN, False, True)),
        *((OUT, False, False), (OUT, True, True)),
        *((IN_OUT, True, False), (IN_OUT, False, False)),
    ],
)
def test_only_dma_of_the_direction_counts(
    bus: Watched, direction: IODirection, write: bool, said: bool
) -> None:
    memory = scattered(bus, direction)
    memory.prepare()
    for address in memory.places:
        bus.dma(address, PAGE, write=write)
    memory.complete()
    assert bool(coverage.lines()) is said


def test_dma_before_the_preparation_does_not_count(bus: Watched) -> None:
    memory = scattered(bus)
    for address in memory.places:
        bus.dma(address, PAGE, write=True)
    memory.prepare()
    memory.complete()
    assert len(coverage.lines()) == 1


def test_nested_preparations_are_one_account(bus: Watched) -> None:
    memory = scattered(bus)
    memory.prepare()
    for address in memory.places:
        bus.dma(address, PAGE, write=True)
    memory.prepare()
    with coverage.strict():
        memory.complete()
        memory.complete()
    assert coverage.lines() == []


def test_an_open_account_counts_as_it_is_now(bus: Watched) -> None:
    memory = scattered(bus)
    memory.prepare()
    assert len(coverage.lines()) == 1
    coverage.begin()
    assert coverage.lines() == [], "of before"
    memory.complete()


@pytest.mark.usefixtures("main")
def test_wired_memory_has_an_account_until_its_release(bus: Watched) -> None:
    memory = IOBufferMemoryDescriptor.withOptions(kIODirectionIn, PAGE)
    bus.dma(memory.getPhysicalAddress(), 100, write=True)
    (said,) = coverage.lines()
    memory.release()
    assert coverage.lines() == [said]
    assert said.endswith("no DMA touched 3996 of them, from offset 100")


@pytest.mark.usefixtures("main")
def test_wired_memory_that_was_prepared_has_that_account_alone(bus: Watched) -> None:
    memory = IOBufferMemoryDescriptor.withOptions(kIODirectionIn, PAGE)
    memory.prepare()
    bus.dma(memory.getPhysicalAddress(), PAGE, write=True)
    memory.complete()
    assert coverage.lines() == []
    memory.release()
    assert coverage.lines() == []


@pytest.mark.usefixtures("main")
def test_a_part_has_the_account_and_not_its_parent(bus: Watched) -> None:
    memory = IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, PAGE)
    part = IOSubMemoryDescriptor.withSubRange(memory, 64, 64, kIODirectionIn)
    part.prepare()
    bus.dma(memory.getPhysicalAddress() + 64, 64, write=True)
    with coverage.strict():
        part.complete()
        part.release()
        memory.release()
    assert coverage.lines() == []


def test_what_is_not_known_is_not_told(bus: Watched) -> None:
    bus.known = False
    memory = scattered(bus)
    memory.prepare()
    with coverage.strict():
        memory.complete()
    assert coverage.lines() == []


def test_nobody_sees_the_dma() -> None:
    assert dma_platform.dma_evidence is None
    assert coverage.lines() == []
    with pytest.raises(IOUnsupportedError, match="nobody here sees the DMA"), coverage.strict():
        pass


def test_the_lines_are_bounded(bus: Watched) -> None:
    memory = scattered(bus)
    for _ in range(coverage.ACCOUNTS_MAX + 5):
        memory.prepare()
        memory.complete()
    said = coverage.lines()
    assert len(said) == coverage.LINES_MAX + 1
    assert said[-1] == f"and {coverage.ACCOUNTS_MAX - coverage.LINES_MAX} more"


# Bounce buffers.


def bounced(bus: Watched, memory: IOMemoryDescriptor) -> tuple[IODMACommand, int]:
    """Return a command whose memory is out of reach, and where its bounce buffer is."""
    command = IODMACommand.withSpecification(numAddressBits=32, bounce_allocator=bus.bounce)
    command.setMemoryDescriptor(memory)
    assert command.bounced
    return command, command.genIOVMSegments(0, 1)[0][0][0]


@pytest.fixture
def high(bus: Watched) -> Iterator[Scattered]:
    memory = Scattered(bus, [0x1_0000_1000], PAGE, IN)
    memory.prepare()
    yield memory
    memory.complete()


def test_of_memory_in_a_bounce_buffer_that_has_the_account(bus: Watched, high: Scattered) -> None:
    command, address = bounced(bus, high)
    bus.dma(address, 96, write=True)
    command.complete()
    (said,) = coverage.lines()
    assert said.startswith("bounce memory: Scattered of 4096 bytes")
    assert said.endswith("no DMA touched 4000 of them, from offset 96")


def test_strict_coverage_of_a_bounce_buffer_leaves_nothing_behind(
    bus: Watched, high: Scattered
) -> None:
    command, _ = bounced(bus, high)
    with coverage.strict(), pytest.raises(CoverageError, match="bounce memory"):
        command.complete()
    assert not command.prepared
    assert bus.bounces[0].released


def test_a_peek_at_memory_whose_bounce_buffer_is_newer(bus: Watched, high: Scattered) -> None:
    command, address = bounced(bus, high)
    high.readBytes(0, 64)
    assert mistakes.taken() == [], "the device has written nothing"
    bus.dma(address + 128, 64, write=True)
    high.readBytes(0, 128)
    assert mistakes.taken() == [], "beside it"
    high.readBytes(100, 64)
    (said,) = mistakes.taken()
    assert (
        "64 bytes from offset 100 on are read at "
        "tests/unit/guest/iobuffer/descriptors/test_coverage.py:" in said
    )
    assert (
        f"36 bytes that a device wrote for them are in the bounce buffer, at {address + 100:#x}"
        in said
    )
    command.synchronize(int(kIODirectionIn))
    high.readBytes(100, 64)
    command.complete()
    high.readBytes(100, 64)
    assert mistakes.taken() == []


@pytest.mark.parametrize("several", [False, True])
def test_a_peek_is_seen_through_parts(bus: Watched, several: bool) -> None:
    memory = Scattered(bus, [0x3000, 0x1_0000_1000], 2 * PAGE, IN)
    part: IOMemoryDescriptor
    if several:
        part = IOMultiMemoryDescriptor.withDescriptors([memory], kIODirectionIn)
        bounce_at = PAGE
    else:
        part = IOSubMemoryDescriptor.withSubRange(memory, PAGE, PAGE, kIODirectionIn)
        bounce_at = 0
    part.prepare()
    command = IODMACommand.withSpecification(numAddressBits=32, bounce_allocator=bus.bounce)
    command.setMemoryDescriptor(part)
    ((address, _),), _ = command.genIOVMSegments(bounce_at, 1)
    bus.dma(address, 8, write=True)
    memory.readBytes(0, PAGE)
    assert mistakes.taken() == []
    memory.readBytes(PAGE + 4, 8)
    assert "4 bytes that a device wrote" in mistakes.taken()[0]
    command.complete(synchronize=False)
    mistakes.taken()
    part.complete()
    part.release()


def test_data_that_a_transfer_throws_away(bus: Watched, high: Scattered) -> None:
    command, address = bounced(bus, high)
    bus.dma(address, 64, write=True)
    with pytest.raises(IOBusyError, match="64 bytes that a device wrote for them are in the bou"):
        high.release()
    command.complete(synchronize=False)
    (said,) = mistakes.taken()
    assert (
        "complete(synchronize=False) at tests/unit/guest/iobuffer/descriptors/test_coverage.py:"
        in said
    )
    assert "throws data away: 64 bytes that a device wrote" in said


def test_a_transfer_without_data_is_given_up_in_peace(bus: Watched, high: Scattered) -> None:
    command, _ = bounced(bus, high)
    command.complete(synchronize=False)
    assert mistakes.taken() == []


def test_what_was_brought_before_is_not_thrown_away(bus: Watched, high: Scattered) -> None:
    command, address = bounced(bus, high)
    bus.dma(address, 64, write=True)
    command.synchronize(int(kIODirectionIn))
    command.complete(synchronize=False)
    assert mistakes.taken() == []


def test_memory_that_the_device_reads_loses_nothing(bus: Watched) -> None:
    memory = Scattered(bus, [0x1_0000_1000], PAGE, OUT)
    memory.prepare()
    command, address = bounced(bus, memory)
    bus.dma(address, PAGE, write=False)
    memory.readBytes(0, PAGE)
    command.complete(synchronize=False)
    assert mistakes.taken() == []
    memory.complete()


def test_mistakes_are_bounded_and_warned_of() -> None:
    mistakes.taken()
    with pytest.warns(mistakes.IOMistakeWarning, match="nobody looks"):
        mistakes.record("nobody looks")
    for _ in range(mistakes.KEPT_MAX):
        mistakes.record("nobody looks")
    assert len(mistakes.taken()) == mistakes.KEPT_MAX
    assert mistakes.taken() == []


# Lists.


def listed(bus: Watched) -> IODMACommand:
    memory = scattered(bus, OUT)
    memory.prepare()
    command = IODMACommand.withSpecification(maxSegmentSize=1024)
    command.setMemoryDescriptor(memory)
    return command


def done(command: IODMACommand) -> None:
    memory = command.getMemoryDescriptor()
    command.clearMemoryDescriptor()
    assert memory is not None
    memory.complete()


def test_a_list_that_was_cut_is_told_when_it_is_completed(bus: Watched) -> None:
    command = listed(bus)
    command.genIOVMSegments(0, 3)
    words = "segments for 3072 of 8192 bytes were generated: generate until offset reaches the le"
    with pytest.raises(UnfinishedList, match=words):
        command.complete()
    assert not command.prepared, "done all the same"
    done(command)


def test_clearing_the_memory_tells_it_too_and_clears_it(bus: Watched) -> None:
    command = listed(bus)
    memory = command.getMemoryDescriptor()
    command.genIOVMSegments(1024, 7)
    with pytest.raises(UnfinishedList):
        command.clearMemoryDescriptor()
    assert command.getMemoryDescriptor() is None
    assert memory is not None
    memory.complete()


@pytest.mark.parametrize("order", [(0, 4096), (4096, 0), (2048, 0, 4096)])
def test_a_list_in_several_calls_is_whole(bus: Watched, order: tuple[int, ...]) -> None:
    command = listed(bus)
    for offset in order:
        command.genIOVMSegments(offset, 4)
    command.complete()
    done(command)


def test_a_list_that_nobody_began_or_that_is_given_up(bus: Watched) -> None:
    command = listed(bus)
    command.complete()
    command.prepare()
    command.genIOVMSegments(0, 1)
    command.complete(synchronize=False)
    done(command)


def test_an_error_on_its_way_is_not_replaced(bus: Watched) -> None:
    command = listed(bus)
    memory = command.getMemoryDescriptor()
    command.genIOVMSegments(0, 1)
    with pytest.raises(KeyError), command:
        raise KeyError
    assert memory is not None
    memory.complete()
