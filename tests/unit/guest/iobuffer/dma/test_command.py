# SPDX-License-Identifier: Apache-2.0
"""IODMACommand on scattered pages: limits of segments, bounce buffers, return codes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, Task, current_task
from dma_rehearsal.guest.iobuffer.base import coherence, dma_activity, interfaces
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IONoMemoryError,
    IONotPermittedError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
)
from dma_rehearsal.guest.iobuffer.base.flags import PrepareFlags
from dma_rehearsal.guest.iobuffer.base.options import IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.sub_descriptor import IOSubMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma import bounce_buffer
from dma_rehearsal.guest.iobuffer.dma.command import (
    IODMACommand,
    MappingOptions,
    SegmentFunction,
    Specification,
    kForceDoubleBuffer,
)
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.generated import examples
from tests.unit.guest.memory_pool import MemoryPool, make
from tests.unit.guest.scattered import IN, IN_OUT, OUT, Bus, Scattered

LOW, HIGH = 0x2000_0000, 0x1_4000_0000
HOST64 = SegmentFunction.OutputHost64
NONE = IODirection.kIODirectionNone


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus()
    yield made
    made.close()


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def memory_of(
    bus: Bus,
    places: Sequence[int],
    length: int | None = None,
    direction: IODirection = IN_OUT,
    skip: int = 0,
) -> Scattered:
    made = Scattered(
        bus, places, len(places) * PAGE - skip if length is None else length, direction, skip
    )
    made.writeBytes(0, pattern(made.length))
    made.prepare()
    return made


def command_for(bus: Bus, **limits: Any) -> IODMACommand:
    return IODMACommand(Specification.of_device(**limits), bounce_allocator=bus.bounce)


def everything(command: IODMACommand, number: int = 1 << 20) -> list[Segment]:
    return command.genIOVMSegments(0, number)[0]


def fails_with(code: IOReturn) -> Any:
    return pytest.raises(IOReturnError, match=code.name)


# The specification.


@pytest.mark.parametrize(
    "arguments",
    [
        {"address_bits": 11},
        {"address_bits": 65},
        {"address_bits": 40, "output": SegmentFunction.OutputBig32},
        {"mapping": MappingOptions.kBypassed, "mapper": "an IOMMU"},
        {"mapping": 4},
        {"output": "64"},
        {"alignment": 3},
        {"length_alignment": 12},
        {"internal_alignment": 65},
        {"boundary": 3000},
        {"boundary": 4, "alignment": 8},
        {"max_segment": 4, "internal_alignment": 8},
        {"max_transfer": 4, "length_alignment": 8},
        {"address_bits": 12, "alignment": 4096},
        {"max_segments": -1},
        {"max_segment": True},
        {"alignment": 2.0},
        {"max_transfer": 1 << 64},
    ],
)
def test_specifications_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(IOBadArgumentError):
        Specification(**arguments)


def test_what_0_stands_for() -> None:
    narrow = IODMACommand.withSpecification(SegmentFunction.OutputBig32, alignment=0)
    assert (narrow.getNumAddressBits(), narrow.getAlignment()) == (32, 1)
    wide = IODMACommand.withSpecification(HOST64, 0, 0, alignment=16, refCon="mine")
    assert (wide.getNumAddressBits(), wide.getMaximumSegmentSize()) == (64, 0)
    assert (wide.getAlignmentLength(), wide.getAlignmentInternalSegments()) == (1, 16)
    assert (wide.getMaximumTransferSize(), wide.getRefCon()) == (0, "mine")
    assert wide.cloneCommand().specification == wide.specification
    assert Specification(mapping=MappingOptions.kUnmapped, mapper="an IOMMU").mapped is False


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (SegmentFunction.OutputBig32, "00001000 00000010"),
        (SegmentFunction.OutputLittle32, "00100000 10000000"),
        (SegmentFunction.OutputBig64, "0000000000001000 0000000000000010"),
        (SegmentFunction.OutputLittle64, "0010000000000000 1000000000000000"),
    ],
)
def test_segments_as_the_device_reads_them(function: SegmentFunction, expected: str) -> None:
    assert function.pack([(0x1000, 0x10)]) == bytes.fromhex(expected)


# Segments, whatever the memory and the limits are.


@st.composite
def limits(draw: st.DrawFn) -> dict[str, int]:
    powers = [1 << shift for shift in range(14)]
    alignment, length_alignment = draw(st.sampled_from(powers)), draw(st.sampled_from(powers[:10]))
    least = max(alignment, length_alignment)
    return {
        "address_bits": draw(st.sampled_from([29, 32, 64])),
        "alignment": alignment,
        "length_alignment": length_alignment,
        "max_segment": draw(st.sampled_from([0, least, least + 1, 3 * least, 5000 + least])),
        "boundary": draw(st.sampled_from([0, least, 4 * least, 1 << 16])),
    }


@st.composite
def memories(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """(places, skip, length), some places next to each other and some above the limit."""
    pages = draw(st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True))
    high = draw(st.lists(st.booleans(), min_size=len(pages), max_size=len(pages)))
    places = [
        (HIGH if up else 0x1000_0000) + page * PAGE for page, up in zip(pages, high, strict=True)
    ]
    skip = draw(st.sampled_from([0, 0, 4, 64, 512, 1001]))
    length = draw(st.integers(1, len(places) * PAGE - skip))
    return places, skip, length


def check_limits(segments: list[Segment], limit: dict[str, int]) -> None:
    for number, (address, length) in enumerate(segments, 1):
        assert length > 0
        assert address + length <= 1 << limit["address_bits"]
        assert address % limit["alignment"] == 0
        assert length % limit["length_alignment"] == 0
        assert not limit["max_segment"] or length <= limit["max_segment"], number
        boundary = limit["boundary"]
        assert not boundary or address // boundary == (address + length - 1) // boundary


@given(
    limit=limits(),
    shape=memories(),
    direction=st.sampled_from([IN, OUT, IN_OUT, NONE]),
    number=st.integers(1, 9),
    force=st.booleans(),
)
@settings(max_examples=examples(150), deadline=None)
def test_any_memory_within_any_limits(
    limit: dict[str, int],
    shape: tuple[list[int], int, int],
    direction: IODirection,
    number: int,
    force: bool,
) -> None:
    bus = Bus()
    places, skip, length = shape
    length = max(length - length % limit["length_alignment"], 0)
    memory = memory_of(bus, places, length, direction, skip)
    before = pattern(length)
    with command_for(bus, **limit) as command:
        command.setMemoryDescriptor(memory)
        if force:
            command.synchronize(kForceDoubleBuffer)
        segments: list[Segment] = []
        offset = 0
        while offset < length:
            some, behind = command.genIOVMSegments(offset, number)
            assert len(some) <= number
            assert behind == offset + sum(size for _, size in some)
            segments, offset = segments + some, behind
        check_limits(segments, limit)
        assert offset == sum(size for _, size in segments) == length
        bounced = bus.bounces[-1].places if bus.bounces else []
        direct = bytearray(before)
        at = 0
        for address, size in segments:  # fresh bounce memory is empty, and In leaves it so
            for byte in range(size) if direction == IN else ():
                if (address + byte) & -PAGE in bounced:
                    direct[at + byte] = 0
            at += size
        assert bus.read(segments) == bytes(direct)
        written = pattern(length, 2)
        bus.write(segments, written)
        assert command.readBytes(0, length) == written, "what the device sees"
        bounced_bytes = command.bounced
    after = memory.readBytes(0, length)
    if direction != OUT or not bounced_bytes:
        assert after == written
    elif bounced_bytes == length:
        assert after == before, "a device that may only read changes nothing through a bounce"
    memory.complete()
    bus.close()


def test_segments_merge_and_split(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, LOW + PAGE, LOW + 3 * PAGE])
    with command_for(bus) as command:
        command.setMemoryDescriptor(memory)
        assert everything(command) == [(LOW, 2 * PAGE), (LOW + 3 * PAGE, PAGE)]
        assert command.genIOVMSegments(PAGE, 1) == ([(LOW + PAGE, PAGE)], 2 * PAGE)
        assert command.bounced == 0
    with command_for(bus, max_segment=PAGE + 1000, alignment=512) as command:
        command.setMemoryDescriptor(memory)
        assert everything(command) == [
            (LOW, PAGE + 512),
            (LOW + PAGE + 512, PAGE - 512),
            (LOW + 3 * PAGE, PAGE),
        ]
    memory.complete()


def test_a_part_of_the_memory(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, LOW + 2 * PAGE])
    with command_for(bus) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        command.prepare(PAGE - 10, 20)
        assert command.getPreparedOffsetAndLength() == (PAGE - 10, 20)
        assert everything(command) == [(LOW + PAGE - 10, 10), (LOW + 2 * PAGE, 10)]
        assert command.readBytes(0, 20) == pattern(2 * PAGE)[PAGE - 10 : PAGE + 10]
        command.prepare(PAGE - 10, 20)  # nests
        with pytest.raises(IONotReadyError, match="another part"):
            command.prepare(0, 20)
        command.complete()
        assert command.prepared == 1
    memory.complete()


# Bounce buffers.


@pytest.mark.parametrize("direction", [IN, OUT, IN_OUT, NONE])
@pytest.mark.parametrize("skip", [0, 1], ids=["high page", "misaligned"])
def test_bounce_contents(bus: Bus, direction: IODirection, skip: int) -> None:
    """Out at prepare, back at complete; what bounces not is the memory itself."""
    memory = memory_of(bus, [LOW, HIGH, LOW + PAGE], 3 * PAGE - 8, direction, skip)
    before = pattern(memory.length)
    with command_for(bus, address_bits=32, alignment=4) as command:
        command.setMemoryDescriptor(memory)
        segments = everything(command)
        assert command.bounced == (memory.length if skip else PAGE)
        assert (command.getIOMemoryDescriptor() is memory) == (not skip)
        seen = bus.read(segments)
        if direction == IN:  # the bounce's own bytes: what a device does not write comes back so
            assert seen != before
        else:
            assert seen == before
        bus.write(segments, pattern(memory.length, 2))
        part = slice(None) if skip else slice(PAGE, 2 * PAGE)
        assert memory.readBytes(0, memory.length)[part] == before[part], "not before complete()"
        command.complete()
        expected = pattern(memory.length, 2) if direction != OUT else before
        assert memory.readBytes(0, memory.length)[part] == expected[part]
        assert not [each for each in bus.bounces if not each.released]
    memory.complete()


def test_the_pages_above_the_limit_alone(bus: Bus) -> None:
    memory = memory_of(bus, [HIGH, HIGH + PAGE, LOW, HIGH + 4 * PAGE], skip=100)
    with command_for(bus, address_bits=32) as command:
        command.setMemoryDescriptor(memory)
        first, second, third = everything(command)
        base = bus.bounces[0].places[0]
        assert first == (base + 100, 2 * PAGE - 100), "a page keeps its place in a page, and order"
        assert second == (LOW, PAGE)
        assert third == (base + 2 * PAGE, PAGE)
        assert bus.read([first, second, third]) == pattern(memory.length)
    memory.complete()


def test_with_a_mapper_nothing_bounces_for_its_address(bus: Bus) -> None:
    memory = memory_of(bus, [HIGH])
    with command_for(bus, address_bits=32, mapper="an IOMMU") as command:
        command.setMemoryDescriptor(memory)
        assert not bus.bounces
        with fails_with(IOReturn.kIOReturnMessageTooLarge):
            command.genIOVMSegments(0, 1)
    with command_for(bus) as command:
        command.setMemoryDescriptor(memory)
        with fails_with(IOReturn.kIOReturnMessageTooLarge) as caught:
            command.gen32IOVMSegments(0, 1)
        assert caught.value.address == HIGH
        assert command.gen64IOVMSegments(0, 1) == ([(HIGH, PAGE)], PAGE)
    memory.complete()


def test_a_bounce_buffer_that_is_not_what_was_asked_for(bus: Bus) -> None:
    memory = memory_of(bus, [HIGH])

    def too_high(length: int, alignment: int, highest: int) -> IOMemoryDescriptor:
        assert (length, alignment, highest) == (PAGE, PAGE, (1 << 32) - 1)
        return Scattered(bus, [HIGH + PAGE], length)

    command = IODMACommand(Specification(address_bits=32), bounce_allocator=too_high)
    with pytest.raises(IOReturnError, match="above 32 address bits"):
        command.setMemoryDescriptor(memory)
    assert len(bus.live) == 1, "it was released"

    class Held(Scattered):
        def release(self) -> None:
            raise IOBusyError("a view of it lives")

    def held(length: int, _alignment: int, _highest: int) -> IOMemoryDescriptor:
        return Held(bus, [HIGH + PAGE], length)

    command = IODMACommand(Specification(address_bits=32), bounce_allocator=held)
    with pytest.raises(IOReturnError, match=r"above 32 address bits.*a view of it lives") as error:
        command.setMemoryDescriptor(memory)
    assert error.value.code is IOReturn.kIOReturnDMAError
    Scattered.release(bus.live[-1])
    with pytest.raises(IONoMemoryError), command_for(bus, address_bits=20) as narrow:
        narrow.setMemoryDescriptor(memory)
    memory.complete()


def test_bounce_memory_is_granted_to_the_device(bus: Bus) -> None:
    granted: list[tuple[int, int, IODirection]] = []

    class Control:
        def grant(self, address: int, length: int, direction: IODirection) -> object:
            granted.append((address, length, direction))
            return granted[-1]

        def withdraw(self, grant: object) -> None:
            granted.remove(grant)  # type: ignore[arg-type]

        def reclaim(self) -> None: ...

    memory = memory_of(bus, [HIGH], direction=OUT)
    before, dma_platform.access_control = dma_platform.access_control, Control()
    try:
        with command_for(bus, address_bits=32) as command:
            command.setMemoryDescriptor(memory)
            assert granted == [(bus.bounces[0].places[0], PAGE, OUT)]
    finally:
        dma_platform.access_control = before
    assert not granted
    memory.complete()


@pytest.mark.parametrize("direction", [IN, OUT, IN_OUT])
def test_forced_double_buffer(bus: Bus, direction: IODirection) -> None:
    """xnu: an 8-page pageable buffer, in one segment; its source intact, and written late."""
    places = [HIGH + (7 - page) * 2 * PAGE for page in range(8)]
    memory = Scattered(bus, places, 8 * PAGE, direction)
    memory.writeBytes(0, pattern(8 * PAGE))
    memory.prepare()
    assert memory.getDMAMapLength() == (8 * PAGE, 0)
    command = IODMACommand.withSpecification(HOST64, 64, bounce_allocator=bus.bounce)
    command.setMemoryDescriptor(memory)
    command.synchronize(kForceDoubleBuffer | OUT)
    segments, end = command.gen64IOVMSegments(0, 16)
    assert (len(segments), end) == (1, 8 * PAGE)
    if direction != IN:
        assert bus.read(segments) == pattern(8 * PAGE)
    bus.write([(segments[0][0], 4)], b"word")
    assert memory.readBytes(0, 8 * PAGE) == pattern(8 * PAGE)
    command.clearMemoryDescriptor()
    memory.complete()
    expected = b"word" if direction != OUT else pattern(4)
    assert memory.readBytes(0, 4) == expected


def test_forced_double_buffer_loses_nothing(bus: Bus) -> None:
    """xnu: what is in a bounce buffer comes back before the new one; all of it there, it stays."""
    memory = memory_of(bus, [HIGH, LOW])
    with command_for(bus, address_bits=32) as command:
        command.setMemoryDescriptor(memory)
        assert command.bounced == PAGE
        bus.write([(everything(command)[0][0], 5)], b"first")
        command.synchronize(kForceDoubleBuffer)
        assert command.bounced == 2 * PAGE
        assert memory.readBytes(0, 5) == b"first"
        segments = everything(command)
        assert bus.read(segments) == b"first" + pattern(2 * PAGE)[5:]
        bus.write([(segments[0][0], 5)], b"again")
        command.synchronize(kForceDoubleBuffer)
        assert everything(command) == segments
        assert memory.readBytes(0, 5) == b"first", "nothing is brought back in the midst"
    assert memory.readBytes(0, 5) == b"again"
    memory.complete()


def test_synchronize(bus: Bus) -> None:
    memory = memory_of(bus, [HIGH], 100)
    command = command_for(bus, address_bits=32)
    command.setMemoryDescriptor(memory, autoPrepare=False)
    with pytest.raises(IONotReadyError):
        command.synchronize(IN)
    command.prepare(synchronize=False)
    segments = everything(command)
    assert bus.read(segments) == bytes(100), "not brought out"
    command.synchronize(OUT)
    assert bus.read(segments) == pattern(100)
    assert command.writeBytes(10, b"abc") == 3
    assert memory.readBytes(10, 3) == pattern(100)[10:13]
    command.synchronize(IN)
    assert memory.readBytes(10, 3) == b"abc"
    for bad in (IN | OUT, 4):
        with pytest.raises(IOBadArgumentError):
            command.synchronize(bad)
    command.writeBytes(0, b"lost")
    command.complete(synchronize=False)
    assert memory.readBytes(0, 4) == pattern(4)
    with command_for(bus) as direct:
        direct.setMemoryDescriptor(memory)
        direct.synchronize(OUT)
        direct.synchronize(IN)
        assert memory.readBytes(10, 3) == b"abc"
    memory.complete()


def test_bytes_through_the_command(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, HIGH, LOW + PAGE], 3 * PAGE, IN_OUT)
    command = command_for(bus, address_bits=32)
    command.setMemoryDescriptor(memory, autoPrepare=False)
    assert (command.readBytes(0, 1), command.writeBytes(0, b"a")) == (b"", 0)
    command.prepare(100, 2 * PAGE)
    for offset, length in ((-1, 2), (0, 2 * PAGE + 1), (2 * PAGE, 1), (0, -1)):
        assert command.readBytes(offset, length) == b""
    assert command.writeBytes(2 * PAGE, b"a") == 0
    around = PAGE - 100 - 3  # from low into high
    assert command.writeBytes(around, b"sixsix") == 6
    assert command.readBytes(around, 6) == b"sixsix"
    assert memory.readBytes(100 + around, 6) == b"six" + pattern(3 * PAGE)[PAGE : PAGE + 3]
    command.complete()
    assert memory.readBytes(100 + around, 6) == b"sixsix"
    memory.complete()


# Refused calls.


def test_memory_is_set_and_cleared(bus: Bus) -> None:
    one, other = memory_of(bus, [LOW]), memory_of(bus, [LOW + PAGE])
    command = command_for(bus)
    command.setMemoryDescriptor(one)
    command.setMemoryDescriptor(one)
    assert command.prepared == 1
    with pytest.raises(IOBusyError):
        command.setMemoryDescriptor(other)
    with pytest.raises(IONotReadyError):
        command.clearMemoryDescriptor(autoComplete=False)
    command.setMemoryDescriptor(one, autoPrepare=False)
    assert command.prepared == 0
    command.setMemoryDescriptor(other)
    assert command.getMemoryDescriptor() is other
    command.setMemoryDescriptor(None)
    assert command.getMemoryDescriptor() is None
    with pytest.raises(IOBadArgumentError):
        command.setMemoryDescriptor("memory")  # type: ignore[arg-type]
    for memory in (one, other):
        memory.complete()


def test_memory_stays_while_the_command_is_prepared(bus: Bus) -> None:
    memory = memory_of(bus, [LOW])
    command = command_for(bus)
    command.setMemoryDescriptor(memory)
    for refused in (memory.complete, memory.release):
        with pytest.raises(IOBusyError, match="IODMACommand"):
            refused()
    command.complete()
    memory.complete()


def test_not_ready(bus: Bus) -> None:
    bare = IODMACommand.withRefCon(None)
    memory = Scattered(bus, [LOW], PAGE)
    with pytest.raises(IONotReadyError, match="no specification"):
        bare.setMemoryDescriptor(memory)
    assert bare.getMemoryDescriptor() is None
    command = command_for(bus)
    for call in (
        command.prepare,
        command.complete,
        lambda: command.genIOVMSegments(0, 1),
        command.getPreparedOffsetAndLength,
        lambda: next(command.transfers()),
    ):
        with pytest.raises(IONotReadyError):
            call()
    with pytest.raises(IONotReadyError, match="prepare the memory before the command"):
        command.setMemoryDescriptor(memory)
    memory.prepare()
    bare.setMemoryDescriptor(memory, autoPrepare=False)
    bare.prepareWithSpecification(Specification(max_segment=100))
    assert len(everything(bare)) == 41
    with pytest.raises(IONotPermittedError):
        bare.prepareWithSpecification(Specification())
    bare.clearMemoryDescriptor()
    memory.complete()


def test_lengths_and_counts_that_are_refused(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, HIGH])
    command = command_for(
        bus, length_alignment=4, max_transfer=PAGE + 4, max_segments=2, max_segment=2048
    )
    command.setMemoryDescriptor(memory, autoPrepare=False)
    for offset, length, code in (
        (0, 0, IOReturn.kIOReturnNoSpace),
        (0, 2 * PAGE, IOReturn.kIOReturnNoSpace),
        (0, PAGE + 4, IOReturn.kIOReturnNoSpace),  # three segments
        (0, 2 * PAGE + 4, IOReturn.kIOReturnOverrun),
        (2 * PAGE + 4, 0, IOReturn.kIOReturnOverrun),
        (0, 6, IOReturn.kIOReturnNotAligned),
        (-4, 8, IOReturn.kIOReturnBadArgument),
        (0, -4, IOReturn.kIOReturnBadArgument),
    ):
        with fails_with(code):
            command.prepare(offset, length)
        assert command.prepared == 0
        assert not memory._dma_users
    command.prepare(4, 8)
    for offset, number, code in (
        (0, 0, IOReturn.kIOReturnBadArgument),
        (8, 1, IOReturn.kIOReturnOverrun),
        (-1, 1, IOReturn.kIOReturnOverrun),
    ):
        with fails_with(code):
            command.genIOVMSegments(offset, number)
    command.complete()
    memory.complete()


def test_zero_length(bus: Bus) -> None:
    """xnu: prepare, complete and release are safe."""
    memory = Scattered(bus, [], 0)
    memory.prepare()
    with command_for(bus) as command:
        command.setMemoryDescriptor(memory)
        with fails_with(IOReturn.kIOReturnOverrun):
            command.genIOVMSegments(0, 1)
        command.synchronize(kForceDoubleBuffer)
        assert (command.readBytes(0, 0), command.bounced) == (b"", 0)
    memory.complete()
    memory.release()


def test_nested_prepare(bus: Bus) -> None:
    """xnu: In with NoZeroFill, In, complete(In with DataValid), complete(In)."""
    memory = Scattered(bus, [LOW], PAGE, IN)
    memory.prepare(IN | PrepareFlags.kIODirectionPrepareNoZeroFill)
    memory.prepare(IN)
    with command_for(bus) as command:
        command.setMemoryDescriptor(memory)
        memory.complete(IN | 0x80)  # kIODirectionCompleteWithDataValid
        with pytest.raises(IOBusyError):
            memory.complete(IN)
    memory.complete(IN)
    for call in (memory.prepare, memory.complete):
        for bad in (IN | 0x100, -1):
            with pytest.raises(IOBadArgumentError, match="unknown bits"):
                call(bad)
    assert memory.wires == 0


def test_a_dma_in_flight_is_waited_for(bus: Bus) -> None:
    class Master:
        going: tuple[dma_activity.InFlight, ...] = ()

        def in_flight(self) -> tuple[dma_activity.InFlight, ...]:
            return self.going

    memory, master = memory_of(bus, [HIGH, LOW]), Master()
    dma_activity.register(master)
    command = command_for(bus, address_bits=32)
    command.setMemoryDescriptor(memory)
    address, length = everything(command)[0]
    master.going = (dma_activity.InFlight(address + length - 1, 1, "DMA 7 of the test"),)
    command.writeBytes(0, b"kept")
    calls: tuple[Callable[[], None], ...] = (
        command.complete,
        command.clearMemoryDescriptor,
        lambda: command.synchronize(kForceDoubleBuffer),
    )
    for refused in calls:
        with pytest.raises(IOBusyError, match="DMA 7"):
            refused()
    assert memory.readBytes(0, 4) == pattern(4), "nothing was undone"
    master.going = ()
    command.complete()
    assert memory.readBytes(0, 4) == b"kept"
    memory.complete()


def test_bounce_memory_of_this_package_that_is_wrong_is_given_back(main: MemoryPool) -> None:
    """A buffer, unlike a stand-in, refuses its release while it is prepared."""
    free = main.free_size()

    def too_high(length: int, alignment: int, _highest: int) -> IOBufferMemoryDescriptor:
        return make(length, alignment, pool="high")

    for coverage_is_strict in False, True:
        with make(PAGE, pool="high") as memory, ExitStack() as stack:
            if coverage_is_strict:
                dma_platform.dma_evidence = NothingTouched()
                stack.callback(setattr, dma_platform, "dma_evidence", None)
            command = IODMACommand(Specification(address_bits=32), bounce_allocator=too_high)
            with (
                pytest.raises(IOReturnError, match="above 32 address bits") as error,
                coverage.strict() if coverage_is_strict else nullcontext(),
            ):
                command.setMemoryDescriptor(memory)
            assert error.value.code is IOReturn.kIOReturnDMAError
            assert "undone" not in error.value.reason
            assert command.getMemoryDescriptor() is None
            stack.close()
        assert main.free_size() == free


class NothingTouched:
    """Nobody has seen a DMA."""

    def untouched(
        self,
        address: int,  # noqa: ARG002
        length: int,
        direction: IODirection,  # noqa: ARG002
        since: int,  # noqa: ARG002
    ) -> interfaces.Untouched:
        return interfaces.Untouched(length, 0)


def test_a_device_outside_of_the_caches(bus: Bus) -> None:
    done: list[tuple[str, list[Segment]]] = []

    class Recorder(coherence.CoherentBus):
        def clean(self, memory: interfaces.Descriptor, offset: int, length: int) -> None:
            done.append(("clean", memory.segments(offset, length)))

        def clean_and_invalidate(
            self, memory: interfaces.Descriptor, offset: int, length: int
        ) -> None:
            done.append(("flush", memory.segments(offset, length)))

    memory = memory_of(bus, [LOW, HIGH])
    before, dma_platform.coherence = dma_platform.coherence, Recorder()
    try:
        for mapping in (MappingOptions.kNonCoherent, MappingOptions.kMapped):
            with command_for(bus, address_bits=32, mapping=mapping) as command:
                command.setMemoryDescriptor(memory)
                segments = everything(command)
        with command_for(bus, mapping=MappingOptions.kNonCoherent) as command:
            command.setMemoryDescriptor(memory, autoPrepare=False)
            command.prepare(flushCache=False)
            command.complete(invalidateCache=False)
    finally:
        dma_platform.coherence = before
    assert len(segments) == 2
    assert [what for what, _ in done] == ["clean"] * 2 + ["flush"] * 2
    cleaned = [each for what, parts in done if what == "clean" for each in parts]
    assert cleaned == segments, "the bounced page among them"
    assert [each for what, parts in done if what == "flush" for each in parts] == segments
    memory.complete()


def test_bounce_memory_comes_from_a_physical_mask(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    class Buffers:
        @staticmethod
        def inTaskWithPhysicalMask(
            inTask: Task, options: IOOptions, capacity: int, physicalMask: int
        ) -> Scattered:
            asked.append((inTask, int(options), capacity, physicalMask))
            return bus.bounce(capacity, 2 * PAGE, 0xFFFF_FFFF)

    monkeypatch.setattr(bounce_buffer, "IOBufferMemoryDescriptor", Buffers)
    memory = memory_of(bus, [HIGH, LOW], skip=1)
    with IODMACommand.withSpecification(
        IODMACommand.OutputHost64, 32, 0, IODMACommand.kMapped, 0, 2 * PAGE
    ) as command:
        command.setMemoryDescriptor(memory)
    assert asked == [(current_task(), 0x13, 2 * PAGE - 1, 0xFFFF_E000)]
    memory.complete()


# Several transfers.


@given(limit=limits(), shape=memories(), most=st.integers(1, 4), transfer=st.integers(0, 3))
@settings(max_examples=examples(80), deadline=None)
def test_transfers(
    limit: dict[str, int], shape: tuple[list[int], int, int], most: int, transfer: int
) -> None:
    bus = Bus()
    places, skip, length = shape
    length -= length % limit["length_alignment"]
    memory = memory_of(bus, places, length, IN_OUT, skip)
    longest = transfer * 4096 and max(limit["length_alignment"], transfer * 1500)
    with command_for(bus, **limit, max_segments=most, max_transfer=longest) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        at = 0
        for part in command.transfers():
            assert part.offset == at
            assert part.length == sum(size for _, size in part.segments)
            assert len(part.segments) <= most
            assert not longest or part.length <= longest
            check_limits(part.segments, limit)
            assert bus.read(part.segments) == pattern(length)[at : at + part.length]
            bus.write(part.segments, pattern(length, 3)[at : at + part.length])
            at += part.length
        assert at == length
        assert command.prepared == 0
    assert memory.readBytes(0, length) == pattern(length, 3)
    memory.complete()
    bus.close()


def test_transfers_that_stop_early(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, HIGH])
    command = command_for(bus, max_segments=1)
    command.setMemoryDescriptor(memory, autoPrepare=False)
    iterator = command.transfers()
    assert next(iterator).length == PAGE
    iterator.close()  # type: ignore[attr-defined]
    assert command.prepared == 0
    command.prepare(0, 10)
    with pytest.raises(IONotReadyError):
        next(command.transfers())
    command.complete()
    impossible = command_for(bus, max_segments=1, max_segment=1024, length_alignment=1024)
    impossible.setMemoryDescriptor(memory, autoPrepare=False)
    assert [part.length for part in impossible.transfers()] == [1024] * 8
    memory.complete()


def test_a_part_of_a_part(bus: Bus) -> None:
    memory = memory_of(bus, [LOW, HIGH, LOW + 4 * PAGE])
    with (
        IOSubMemoryDescriptor.withSubRange(memory, 10, 2 * PAGE, OUT) as sub,
        command_for(bus, address_bits=32) as command,
    ):
        with pytest.raises(IONotReadyError):
            command.setMemoryDescriptor(sub)
        sub.prepare()
        command.setMemoryDescriptor(sub)
        assert bus.read(everything(command)) == pattern(3 * PAGE)[10 : 10 + 2 * PAGE]
        assert command.bounced == PAGE
        assert "3 segments, 4096 bytes bounced" in repr(command)
    memory.complete()


def test_every_segments_length_is_aligned_but_for_the_last() -> None:
    limits = Specification(length_alignment=4)
    assert limits.cut([(0, 4), (0x100, 6)]) == [(0, 4), (0x100, 6)]
    assert limits.cut([(0, 6), (0x100, 4)]) is None
