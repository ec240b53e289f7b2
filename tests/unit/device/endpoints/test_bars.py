# SPDX-License-Identifier: Apache-2.0
"""BARs of every kind, as their function, its client and its peers meet them."""

from __future__ import annotations

import mmap
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    CallbackBar,
    DmaRefused,
    Endpoint,
    Fabric,
    Identity,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    Register,
    RegisterBar,
    Registers,
    Rom,
    SharedBar,
    StatePart,
    Trace,
)
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.vfio_user.errors import ReadOnly, Unmapped
from dma_rehearsal.device.vfio_user.messages import DeviceState
from tests.unit.device.fakes import BASE, FakeClient, answer, read32, start, write32

GIB = 1 << 30
HIGH = 0x38_0000_0000
IDENTITY = Identity(0x1234, 1, 0xFF0000)


class Reg(IntEnum):
    """The registers of a part."""

    PLAIN = 0
    CALLED = 8


class More(IntEnum):
    """The registers of another part."""

    OTHER = 0
    RUNG = 4


MIXED = MixedBar(
    0x8000,
    {
        0: Registers([Register(Reg.PLAIN, Access.RW), Register(Reg.CALLED, Access.RW)]),
        0x100: MemoryBar(0x80),
        0x180: MemoryBar(0x80, read_only=True),
        0x1000: RegisterBar([Register(More.OTHER, Access.RW), Register(More.RUNG, Access.WO)], 16),
        0x2004: CallbackBar(12),
        0x4000: SharedBar(0x2000, ((0x1000, 0x1000),)),
    },
    bits=64,
    prefetchable=True,
)


class Mixed(Endpoint):
    """All kinds of parts in one BAR, and MSI-X's table and pending bits between them."""

    identity = IDENTITY
    bars: ClassVar[Bars] = {2: MIXED}
    vectors = 4
    msix_bars = MsixBars(2, 2, 0x3040, 0x3000)
    state: ClassVar[Sequence[StatePart]] = (
        StatePart(2, 0x100, 16),
        StatePart(2, 8, 4),
        StatePart(2, 0x1000, 4),
    )

    def __init__(self, trace: Trace | None = None, fabric: Fabric | None = None) -> None:
        super().__init__(trace, fabric=fabric)
        self.calls: list[tuple[str, int, object]] = []

    def read_called(self) -> int:
        """Take note."""
        self.calls.append(("read_called", 0, 0))
        return 0x77

    def write_called(self, value: int) -> None:
        """Take note."""
        self.calls.append(("called", 0, value))

    def write_rung(self, value: int) -> None:
        """Take note."""
        self.calls.append(("rung", 0, value))

    def read_bar2(self, offset: int, length: int) -> bytes:
        """Return the offset in each byte."""
        self.calls.append(("read", offset, length))
        return bytes(range(offset & 0xFF, (offset & 0xFF) + length))

    def write_bar2(self, offset: int, data: bytes) -> None:
        """Take note."""
        self.calls.append(("write", offset, data))


@pytest.fixture
def mixed(client: FakeClient) -> Iterator[Mixed]:
    made = Mixed(Trace())
    made.attach(client)
    start(made)
    yield made
    made.shared(2).close()


def place(endpoint: Endpoint, bar: int, address: int) -> None:
    """Put a BAR of 64 bits somewhere."""
    endpoint.region_write(7, 0x10 + 4 * bar, struct.pack("<Q", address))


def test_the_upper_half_is_not_a_region(mixed: Mixed) -> None:
    sizes = [mixed.region_size(bar) for bar in range(9)]
    assert sizes == [0, 0, 0x8000, 0, 0, 0, 0, 4096, 0]


def test_registers_of_parts(mixed: Mixed) -> None:
    write32(mixed, 2, 0, 5)
    write32(mixed, 2, 0x1000, 6)
    write32(mixed, 2, 8, 7)
    write32(mixed, 2, 0x1004, 8)
    assert [read32(mixed, 2, at) for at in (0, 0x1000, 8, 0x1004)] == [5, 6, 0x77, 0]
    assert mixed.calls == [("called", 0, 7), ("rung", 0, 8), ("read_called", 0, 0)]
    assert mixed.registers(2, at=0)[Reg.PLAIN] == 5
    assert mixed.registers(2, at=0x1000)[More.OTHER] == 6


def test_parts_are_found_by_kind_and_place(mixed: Mixed) -> None:
    mixed.memory(2, at=0x100)[:4] = b"some"
    assert mixed.region_read(2, 0x100, 4) == b"some"
    assert mixed.shared(2) is mixed.shared(2, at=0x4000)
    for wanted, said in (
        (lambda: mixed.registers(2), "BAR2 has registers at 0x0, 0x1000; say at which of them"),
        (lambda: mixed.memory(2), "BAR2 has memory at 0x100, 0x180"),
        (lambda: mixed.memory(2, at=0x1000), "BAR2 has no memory at 0x1000"),
        (lambda: mixed.shared(2, at=0), "BAR2 has no shared memory at 0x0"),
        (lambda: mixed.registers(3), "BAR3 is not declared"),
    ):
        with pytest.raises(LookupError, match=said):
            wanted()


def test_an_access_over_several_parts(mixed: Mixed) -> None:
    mixed.region_write(2, 0xF8, b"lostlostkept")
    assert mixed.region_read(2, 0xF8, 12) == bytes(8) + b"kept"
    mixed.memory(2, at=0x180)[:4] = b"only"
    mixed.region_write(2, 0x17C, b"lastfirst")
    assert mixed.region_read(2, 0x17A, 8) == b"\0\0lastonly"[:8]
    assert mixed.region_read(2, 0x17C, 8) == b"lastonly"
    assert mixed.region_read(2, 0x1FC, 8) == bytes(8), "a gap behind it"
    assert mixed.region_read(2, 0x7FFC, 4) == bytes(4)


def test_callbacks_of_a_part_have_offsets_of_the_bar(mixed: Mixed) -> None:
    assert mixed.region_read(2, 0x2002, 8) == b"\0\0\x04\x05\x06\x07\x08\x09"
    mixed.region_write(2, 0x2008, b"12345678abcd")
    assert mixed.calls == [("read", 0x2004, 6), ("write", 0x2008, b"12345678")]


def test_msix_between_parts(mixed: Mixed) -> None:
    assert read32(mixed, 2, 0x300C) == 1, "a vector is masked"
    write32(mixed, 2, 0x3000, 0xFEE0_0000)
    assert read32(mixed, 2, 0x3000) == 0xFEE0_0000
    assert mixed.region_read(2, 0x2FFC, 8) == bytes(4) + struct.pack("<I", 0xFEE0_0000)
    assert isinstance(mixed.trace, Trace)
    late: Any = IntEnum("Late", {"LATE": 0x3000 - 0x1000})  # type: ignore[misc]
    with pytest.raises(ValueError, match="LATE at 0x2000"):
        mixed.registers(2, at=0x1000).add((Register(late.LATE),), None)


def test_msix_in_the_registers_of_a_part() -> None:
    """A register that is added later keeps out of the table, by the part's own offsets."""

    class Inside(Endpoint):
        identity = IDENTITY
        bars: ClassVar[Bars] = {
            0: MixedBar(0x4000, {0x1000: RegisterBar([Register(More.OTHER)], 0x1000)})
        }
        vectors = 4
        msix_bars = MsixBars(0, 0, 0x1900, 0x1800)

    registers = Inside().registers(0)
    late: Any = IntEnum("Late", {"OVER": 0x800, "BEFORE": 0x7FC, "BITS": 0x900})  # type: ignore[misc]
    for each, said in ((late.OVER, "table"), (late.BITS, "pending bits")):
        with pytest.raises(ValueError, match=f"{each.name} at {int(each):#x}: MSI-X's {said} is"):
            registers.add((Register(each),), None)
    registers.add((Register(late.BEFORE),), None)


def test_a_client_maps_a_part_by_the_offsets_of_the_bar(mixed: Mixed) -> None:
    mappable = mixed.region_mappable(2)
    assert mappable is not None
    assert (mappable.areas, mappable.offset) == (((0x5000, 0x1000),), 0)
    view = mmap.mmap(mappable.descriptor, 0x1000, offset=0x5000)
    view[:4] = b"peek"
    assert mixed.region_read(2, 0x5000, 4) == b"peek"
    assert mixed.shared(2).data[0x1000:0x1004] == b"peek"
    view.close()


def test_names_of_parts(mixed: Mixed) -> None:
    assert mixed.location(2, 0x1005) == "BAR2 0x1005 (RUNG)"
    assert mixed.location(2, 8) == "BAR2 0x8 (CALLED)"
    assert mixed.location(2, 0x104) == "BAR2 0x104"
    assert mixed.location(2, 0x2004) == "BAR2 0x2004"


def test_a_reset_resets_each_part(mixed: Mixed) -> None:
    for offset in (0, 0x100, 0x1000, 0x5000):
        write32(mixed, 2, offset, 5)
    mixed.device_reset()
    answer(mixed)
    assert [read32(mixed, 2, offset) for offset in (0, 0x100, 0x1000, 0x5000)] == [0] * 4


def test_a_stopped_function_calls_nothing(mixed: Mixed) -> None:
    write32(mixed, 2, 8, 7)
    mixed.calls.clear()
    assert mixed.migration is not None
    mixed.migration.set(DeviceState.STOP)
    assert mixed.region_read(2, 0, 12) == bytes(8) + struct.pack("<I", 7)
    assert mixed.region_read(2, 0x2004, 4) == bytes(4)
    mixed.region_write(2, 0x2004, b"lost")
    write32(mixed, 2, 0x1004, 1)
    assert mixed.calls == []


def test_a_migration_carries_parts(mixed: Mixed) -> None:
    write32(mixed, 2, 0x100, 0x1111)
    write32(mixed, 2, 8, 7)
    write32(mixed, 2, 0x1000, 9)
    target = Mixed(Trace())
    assert mixed.migration is not None
    assert target.migration is not None
    mixed.migration.set(DeviceState.STOP_COPY)
    state = mixed.migration.read(1 << 20)
    assert state == struct.pack("<I12xII", 0x1111, 7, 9)
    target.migration.set(DeviceState.RESUMING)
    target.migration.write(state)
    target.migration.set(DeviceState.RUNNING)
    answer(target)
    assert [read32(target, 2, offset) for offset in (0x100, 0x1000)] == [0x1111, 9]
    assert target.registers(2, at=0)[Reg.CALLED] == 7
    assert target.calls == []


@pytest.mark.parametrize(
    "part", [StatePart(2, 0x2004, 4), StatePart(2, 0x170, 32), StatePart(2, 0x1F8, 16)]
)
def test_a_migration_does_not_carry_callbacks_and_gaps(part: StatePart) -> None:
    class Wrong(Mixed, complete=False):
        state = (part,)

    with pytest.raises(ValueError, match="the endpoint has no such bytes"):
        Wrong()


@pytest.mark.parametrize(
    ("offset", "acts"), [(8, True), (0, False), (0x100, False), (0x1004, True), (0x2004, True)]
)
def test_a_write_that_acts_is_held(
    mixed: Mixed, offset: int, acts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOLD has a look at writes with a side effect, of whichever part."""
    monkeypatch.setattr(mixed.bus, "interconnect", Interconnect())
    mixed.bus.interconnect.holds.set(True)
    places: list[str] = []
    monkeypatch.setattr(mixed._hold, "act", lambda _action, where: places.append(where))
    write32(mixed, 2, offset, 1)
    assert bool(places) == acts


class Caller(Endpoint):
    """Callbacks that fail, and one that does DMA."""

    identity = IDENTITY
    bars: ClassVar[Bars] = {0: CallbackBar(0x1000), 1: CallbackBar(16), 2: CallbackBar(16)}
    answer: ClassVar[Any] = b""

    def read_bar0(self, offset: int, length: int) -> Any:
        """Return what a test says."""
        del offset, length
        return self.answer

    def write_bar1(self, offset: int, data: bytes) -> None:
        """Do DMA."""
        self.bus.write(BASE + offset, data)

    def read_bar2(self, offset: int, length: int) -> memoryview:
        """Return another kind of bytes."""
        return memoryview(bytearray(offset + length))[offset:]


@pytest.mark.parametrize("wrong", [b"", b"12345", 4, None, [1, 2, 3, 4], "1234"])
def test_a_callback_returns_as_many_bytes_as_it_is_asked_for(wrong: object) -> None:
    caller = Caller()
    answer(caller)
    caller.answer = wrong  # type: ignore[misc]
    with pytest.raises(
        ValueError, match=r"Caller.read_bar0\(0x10, 4\) returned .*; return bytes, 4"
    ):
        caller.region_read(0, 0x10, 4)
    caller.answer = bytearray(b"good")  # type: ignore[misc]
    assert caller.region_read(0, 0x10, 4) == b"good"


def test_a_callback_may_do_dma_and_lack_the_other_direction(client: FakeClient) -> None:
    caller = Caller()
    caller.attach(client)
    start(caller)
    caller.region_write(1, 4, b"data")
    assert client.ram[4:8] == b"data"
    assert caller.region_read(1, 4, 4) == bytes(4), "without read_bar1"
    caller.region_write(0, 4, b"lost")
    assert caller.region_read(2, 4, 4) == bytes(4)
    client.reaches = False
    caller.region_write(1, 12, b"lost")  # and a refused one ends the callback only


class Ports(Endpoint):
    """Registers in I/O space and in memory, and a ROM."""

    identity = IDENTITY
    bars: ClassVar[Bars] = {
        0: IoBar([Register(Reg.PLAIN, Access.RW), Register(Reg.CALLED, Access.RW)], 16),
        1: RegisterBar([Register(More.OTHER, Access.RW)]),
    }
    rom = Rom.holding(b"the data of a ROM", IDENTITY)
    state: ClassVar[Sequence[StatePart]] = (StatePart(0, 0, 4),)

    def __init__(self, trace: Trace | None = None, fabric: Fabric | None = None) -> None:
        super().__init__(trace, fabric=fabric)
        self.calls: list[int] = []
        self.accesses: list[int] = []

    def write_called(self, value: int) -> None:
        """Take note."""
        self.calls.append(value)

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note."""
        del offset, data, write
        self.accesses.append(region)


COMMAND, ROM_ADDRESS = 4, 0x30


def test_ports_answer_while_io_space_is_enabled() -> None:
    ports = Ports()
    ports.region_write(7, COMMAND, b"\1\0")
    write32(ports, 0, Reg.PLAIN, 5)
    ports.region_write(0, Reg.CALLED, b"\7")
    assert (read32(ports, 0, Reg.PLAIN), ports.region_read(0, Reg.CALLED, 1)) == (5, b"\7")
    assert ports.calls == [7]
    assert read32(ports, 1, More.OTHER) == 0xFFFF_FFFF, "memory space is another"
    ports.region_write(7, COMMAND, b"\2\0")
    ports.calls.clear()
    write32(ports, 0, Reg.CALLED, 8)
    assert read32(ports, 0, Reg.PLAIN) == 0xFFFF_FFFF
    assert ports.calls == []
    assert read32(ports, 1, More.OTHER) == 0
    assert ports.location(0, Reg.CALLED) == "BAR0 0x8 (CALLED)"
    assert ports.registers(0)[Reg.PLAIN] == 5


def test_a_rom_is_read_while_it_is_enabled() -> None:
    ports = Ports()
    size = ports.region_size(6)
    assert size == 2048
    ports.region_write(7, COMMAND, b"\2\0")
    assert ports.region_read(6, 0, 4) == b"\xff" * 4
    ports.region_write(7, ROM_ADDRESS, struct.pack("<I", 0xFEB0_0001))
    image = ports.region_read(6, 0, size)
    assert image[:2] == b"\x55\xaa"
    start = int.from_bytes(image[0x18:0x1A], "little")
    assert image[start : start + 8] == b"PCIR\x34\x12\x01\0"
    length = int.from_bytes(image[start + 0x10 : start + 0x12], "little") * 512
    assert b"the data of a ROM" in image[:length]
    assert image[length:] == b"\xff" * (size - length), "nothing is behind the image"
    ports.accesses.clear()
    ports.region_write(6, 0, b"lost")
    ports.device_reset()
    assert ports.accesses == [6]
    ports.region_write(7, COMMAND, b"\2\0")
    ports.region_write(7, ROM_ADDRESS, struct.pack("<I", 0xFEB0_0001))
    assert ports.region_read(6, 0, size) == image
    assert ports.location(6, 16) == "expansion ROM 0x10"
    assert ports.region_mappable(6) is None


def test_a_function_without_a_rom() -> None:
    assert Caller().region_size(6) == 0


def test_a_stopped_function_shows_its_ports_and_rom() -> None:
    ports = Ports()
    ports.region_write(7, COMMAND, b"\3\0")
    ports.region_write(7, ROM_ADDRESS, struct.pack("<I", 0xFEB0_0001))
    write32(ports, 0, Reg.PLAIN, 5)
    assert ports.migration is not None
    ports.migration.set(DeviceState.STOP_COPY)
    assert ports.migration.read(16) == struct.pack("<I", 5)
    assert read32(ports, 0, Reg.PLAIN) == 5
    assert ports.region_read(6, 0, 2) == b"\x55\xaa"


def test_a_peer_reads_a_rom_and_reaches_no_port(client: FakeClient) -> None:
    fabric = Fabric()
    peer, ports = Wide(fabric=fabric), Ports(fabric=fabric)
    for each in (peer, ports):
        each.attach(client)
        start(each)
    ports.region_write(7, 0x10, struct.pack("<I", 0xC000))
    ports.region_write(7, COMMAND, b"\7\0")
    ports.region_write(7, ROM_ADDRESS, struct.pack("<I", 0xFEB0_0001))
    assert peer.bus.read(0xFEB0_0000, 2) == b"\x55\xaa"
    for address, reason in ((0xFEB0_0000, "READ_ONLY"), (0xC000, "UNMAPPED")):
        with pytest.raises(DmaRefused, match=reason):
            peer.touch(address)
    with pytest.raises(DmaRefused, match="OWN_BAR"):
        ports.bus.read(0xFEB0_0000, 2)
    peer.shared(2).close()


class Wide(Endpoint):
    """8 GiB of memory and 4 GiB that the client may map."""

    identity = IDENTITY
    bars: ClassVar[Bars] = {
        0: MemoryBar(8 * GIB, bits=64, prefetchable=True),
        2: SharedBar(4 * GIB, ((3 * GIB, 0x1000),), bits=64),
    }

    def touch(self, address: int) -> None:
        """Do DMA."""
        self.bus.write(address, b"wide")


def resident() -> int:
    """Return the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_large_memory_is_sparse() -> None:
    before = resident()
    wide = Wide()
    answer(wide)
    for bar, offset in ((0, 7 * GIB), (0, 0), (2, 3 * GIB)):
        write32(wide, bar, offset, 0x1234)
        assert read32(wide, bar, offset) == 0x1234
    shared = wide.shared(2)
    blocks = os.fstat(shared.mappable.descriptor).st_blocks
    assert 0 < blocks * 512 < 1 << 20
    wide.device_reset()
    assert os.fstat(shared.mappable.descriptor).st_blocks == 0, "a reset gives the pages back"
    answer(wide)
    assert [read32(wide, *at) for at in ((0, 7 * GIB), (0, 0), (2, 3 * GIB))] == [0] * 3
    assert resident() - before < 64 << 20
    assert len(wide.memory(0)) == 8 * GIB
    shared.close()


def test_own_bar_above_4_gib_is_refused(client: FakeClient) -> None:
    wide = Wide()
    wide.attach(client)
    start(wide)
    place(wide, 0, HIGH)
    with pytest.raises(DmaRefused, match="OWN_BAR"):
        wide.touch(HIGH + 7 * GIB)
    with pytest.raises(DmaRefused, match="UNMAPPED"):
        wide.touch(HIGH + 8 * GIB)
    wide.touch(BASE)


def test_a_peer_reaches_memory_above_4_gib_and_memory_of_a_part(client: FakeClient) -> None:
    fabric = Fabric()
    peer, mixed = Wide(fabric=fabric), Mixed(fabric=fabric)
    for each in (peer, mixed):
        each.attach(client)
        start(each)
    place(peer, 0, HIGH)
    place(mixed, 2, HIGH + 64 * GIB)
    mixed.bus.write(HIGH + 7 * GIB, b"across")
    assert peer.region_read(0, 7 * GIB, 6) == b"across"
    peer.bus.write(HIGH + 64 * GIB + 0x100, b"a part")
    assert mixed.memory(2, at=0x100)[:6] == b"a part"
    at = HIGH + 64 * GIB
    assert bytes(fabric.memory(peer, at + 0x180, 4, write=False)) == bytes(4)
    with pytest.raises(ReadOnly):
        fabric.memory(peer, at + 0x180, 4, write=True)
    for offset in (0, 0xFC, 0x17E, 0x2004, 0x5000, 0x200):
        with pytest.raises(Unmapped):
            fabric.memory(peer, at + offset, 4, write=False)
