"""Behind an IOMMU: what the map refuses is told to the client, with the page at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from device.endpoints.bars import MemoryBar
from device.endpoints.base import Endpoint
from device.endpoints.bus import Bus
from device.endpoints.exerciser import Exerciser
from device.endpoints.referral import PAGE, UNDER_WAY_MAX, Piece, Referral, page_at_fault
from device.endpoints.requests import DmaRefused
from device.layout import (
    DmaCtl,
    DmaReason,
    DmaStatus,
    Ext,
    GrantDirection,
    Plat,
    ProtectionCommand,
    Reg,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from device.pci.config import Identity
from device.platform.platform import Platform
from device.trace import Trace
from device.vfio_user.errors import ClientFault, NoDescriptor
from device.vfio_user.model import Dma
from tests.device.fakes import BASE, READ_ONLY_BASE, SIZE, FakeClient, dma, read32, write32

COMMAND_MASTER = b"\x06\x00"
COMMAND_MEMORY = b"\x02\x00"
END = BASE + SIZE
E = TypeVar("E", bound=Endpoint)
FAR = 0x4000_0000  # only the client reaches it


class Asked(FakeClient):
    """Keeps what it is asked by messages; the test answers. Its faults are of the first byte."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Dma] = []

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if BASE <= address < END < address + length:
            address = END
        if FAR <= address < FAR + SIZE:
            raise NoDescriptor(address)
        return super().memory(address, length, write=write)

    def start_dma(self, dma: Dma) -> None:
        if dma.by_message or FAR <= dma.address < FAR + SIZE:
            self.messages.append(dma)
        else:
            super().start_dma(dma)

    def cancel_dma(self) -> None:
        self.messages.clear()

    def refuse(self) -> None:
        """Answer the only message as an IOMMU does."""
        (asked,) = self.messages
        self.messages.clear()
        asked.on_done(ClientFault(asked.address, "refused"))


class Plain(Endpoint):
    """A device of one's own."""

    identity = Identity(vendor_id=0x1234, device_id=2, class_code=0xFF0000)


def behind_iommu(made: E, client: Asked) -> E:
    made.bus.referral = Referral()
    made.attach(client)
    made.region_write(7, 4, COMMAND_MASTER)
    return made


@pytest.fixture
def client() -> Asked:
    return Asked()


@pytest.fixture
def exerciser(client: Asked) -> Exerciser:
    return behind_iommu(Exerciser(Trace()), client)


@pytest.fixture
def plain(client: Asked) -> Plain:
    return behind_iommu(Plain(Trace(), bars={0: MemoryBar(4096)}), client)


def busy(exerciser: Exerciser) -> bool:
    return bool(read32(exerciser, 0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK)


def newest(exerciser: Exerciser) -> dict[str, int]:
    count = read32(exerciser, 3, Ext.DMA_COUNT)
    write32(exerciser, 3, Ext.RECORD_SELECT, count)
    fields = (Ext.RECORD_REASON, Ext.RECORD_MOVED, Ext.RECORD_CRC32, Ext.RECORD_STATUS)
    return {"count": count} | {each.name: read32(exerciser, 3, each) for each in fields}


# The exerciser's DMA, which ends when the client has answered.


@pytest.mark.parametrize(
    ("address", "size", "write", "reason", "at", "length"),
    [
        (END + 16, 8192, True, DmaReason.UNMAPPED, END + 16, 4080),
        (END + 16, 8192, False, DmaReason.UNMAPPED, END + 16, 4080),
        (END - 4096, 8192, True, DmaReason.UNMAPPED, END, 4096),
        (READ_ONLY_BASE + 8, 64, True, DmaReason.READ_ONLY, READ_ONLY_BASE + 8, 64),
    ],
)
def test_the_page_at_fault_is_asked_for_and_the_refusal_recorded(
    exerciser: Exerciser,
    client: Asked,
    address: int,
    size: int,
    write: bool,
    reason: DmaReason,
    at: int,
    length: int,
) -> None:
    exerciser.buffer[:] = bytes(index % 251 for index in range(len(exerciser.buffer)))
    before = bytes(client.ram)
    dma(exerciser, address, size, write=write, offset=64)
    (asked,) = client.messages
    assert (asked.address, asked.length) == (at, length)
    offset = 64 + at - address
    assert asked.data == (bytes(exerciser.buffer[offset : offset + length]) if write else None)
    assert busy(exerciser)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0, "not ended yet"
    client.refuse()
    assert not busy(exerciser)
    assert newest(exerciser) == {
        "count": 1,
        "RECORD_REASON": reason,
        "RECORD_MOVED": 0,
        "RECORD_CRC32": 0,
        "RECORD_STATUS": DmaStatus.INTERNAL,
    }
    assert bytes(client.ram) == before


def test_mapped_memory_and_other_refusals_are_not_the_clients_business(
    exerciser: Exerciser, client: Asked
) -> None:
    assert dma(exerciser, BASE, 64, write=True)["reason"] == DmaReason.NONE
    past = len(exerciser.buffer)
    assert dma(exerciser, BASE, 64, write=True, offset=past)["reason"] == DmaReason.BUFFER_RANGE
    exerciser.region_write(7, 4, COMMAND_MEMORY)
    assert dma(exerciser, END, 64, write=True)["reason"] == DmaReason.BUS_MASTER_OFF
    assert client.messages == []


def test_without_an_iommu_nobody_is_told(exerciser: Exerciser, client: Asked) -> None:
    exerciser.bus.referral = None
    assert dma(exerciser, END, 64, write=True)["reason"] == DmaReason.UNMAPPED
    assert client.messages == []


def test_a_trigger_while_the_client_is_asked_does_nothing(
    exerciser: Exerciser, client: Asked
) -> None:
    dma(exerciser, END, 64, write=True)
    dma(exerciser, BASE, 64, write=True)
    client.refuse()
    assert newest(exerciser)["count"] == 1


@pytest.mark.parametrize("how", ["reset", "bus master", "detach"])
def test_what_ends_a_dma_ends_this_one(client: Asked, tmp_path: Path, how: str) -> None:
    """The trace has its refusal, and no second event for its end."""
    exerciser = behind_iommu(Exerciser(Trace(tmp_path / "trace")), client)
    dma(exerciser, END, 64, write=True)
    (late,) = client.messages
    if how == "reset":
        exerciser.device_reset()
    elif how == "bus master":
        exerciser.region_write(7, 4, COMMAND_MEMORY)
    else:
        exerciser.detach()
    assert not busy(exerciser)
    count = read32(exerciser, 3, Ext.DMA_COUNT)
    assert count == (how != "reset")
    late.on_done(ClientFault(END, "late"))
    assert read32(exerciser, 3, Ext.DMA_COUNT) == count
    assert [each["reason"] for each in requests(tmp_path / "trace")] == ["UNMAPPED"]


def requests(trace: Path) -> list[dict[str, object]]:
    events = map(json.loads, trace.read_text().splitlines())
    return [each for each in events if each["event"] == "request"]


# The ring's transfers and descriptors.


def ring(exerciser: Exerciser, client: Asked, base: int, *descriptors: RingDescriptor) -> None:
    if base < END:
        data = b"".join(each.pack() for each in descriptors)
        client.ram[: len(data)] = data
    write32(exerciser, 3, Ext.RING_BASE_LO, base)
    write32(exerciser, 3, Ext.RING_SIZE, 16)
    write32(exerciser, 3, Ext.RING_CONTROL, 1)
    write32(exerciser, 3, Ext.RING_DOORBELL, len(descriptors))


def test_refused_transfer_of_the_ring_is_told_before_the_ring_halts(
    exerciser: Exerciser, client: Asked
) -> None:
    sound = RingDescriptor(BASE + 4096, 64, 0, RingFlag(0))
    refused = RingDescriptor(END + 8, 64, 0, RingFlag.WRITE_MEMORY)
    ring(exerciser, client, BASE, sound, refused, sound)
    (asked,) = client.messages
    assert (asked.address, asked.length, asked.data) == (END + 8, 64, bytes(64))
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.BUSY
    client.refuse()
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.REFUSED
    assert read32(exerciser, 3, Ext.RING_COMPLETION) == 1
    assert newest(exerciser)["RECORD_REASON"] == DmaReason.UNMAPPED


def test_descriptors_that_the_map_refuses_are_told(exerciser: Exerciser, client: Asked) -> None:
    ring(exerciser, client, END + 4096, RingDescriptor(BASE, 64, 0, RingFlag(0)))
    (asked,) = client.messages
    assert (asked.address, asked.data) == (END + 4096, None)
    client.refuse()
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.UNREACHABLE


# Any endpoint's requests.

Ends = list[object]
REFUSED: list[Callable[[Bus, Ends], object]] = [
    lambda bus, _: bus.write(END, b"data"),
    lambda bus, _: bus.write_list([(BASE, b"x"), (END, b"data")]),
    lambda bus, ends: bus.write_async(END, b"data", ends.append),
    lambda bus, ends: bus.write_list_async([(BASE, b"x"), (END, b"data")], ends.append),
    lambda bus, _: bus.read(END, 4),
    lambda bus, _: bus.read_list([(BASE, 4), (END, 4)]),
    lambda bus, ends: bus.read_async(END, 4, ends.append),
    lambda bus, ends: bus.read_list_async([(BASE, 4), (END, 4)], ends.append),
    lambda bus, ends: bus.read_list_async([(FAR, 4), (END, 4)], ends.append),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_each_refused_request_is_one_message_and_one_event(
    client: Asked, tmp_path: Path, number: int
) -> None:
    """The synchronous ones raise at once; the others end when the client has answered."""
    plain = behind_iommu(Plain(Trace(tmp_path / "trace")), client)
    ends: Ends = []
    write, at_once = number < 4, number in (0, 1, 4, 5)
    if at_once:
        with pytest.raises(DmaRefused, match="UNMAPPED"):
            REFUSED[number](plain.bus, ends)
    else:
        REFUSED[number](plain.bus, ends)
    (asked,) = client.messages
    assert (asked.address, asked.length) == (END, 4)
    assert asked.data == (b"data" if write else None)
    assert plain.bus.referring
    assert ends == []
    client.refuse()
    assert not plain.bus.referring
    assert len(ends) == (not at_once)
    assert all(isinstance(each, DmaRefused) for each in ends)
    assert [each["reason"] for each in requests(tmp_path / "trace")] == ["UNMAPPED"]


@pytest.mark.parametrize("write", [False, True])
def test_what_moved_after_all_is_recorded(client: Asked, tmp_path: Path, write: bool) -> None:
    """The guest has mapped it in between. Whoever asked keeps the refusal."""
    plain = behind_iommu(Plain(Trace(tmp_path / "trace")), client)
    ends: Ends = []
    if write:
        plain.bus.write_async(END, b"data", ends.append)
    else:
        plain.bus.read_async(END, 4, ends.append)
    client.messages.pop().on_done(b"" if write else b"late")
    assert isinstance(ends[0], DmaRefused)
    told = [(each["reason"], each["moved"], each["write"]) for each in requests(tmp_path / "trace")]
    assert told == [("UNMAPPED", 0, write), ("NONE", 4, write)]
    assert [each.reason for each in plain.bus.transactions] == [DmaReason.UNMAPPED, DmaReason.NONE]


def test_messages_are_bounded(plain: Plain, client: Asked) -> None:
    ends: Ends = []
    for number in range(UNDER_WAY_MAX + 3):
        plain.bus.read_async(END + number * PAGE, 4, ends.append)
    assert len(client.messages) == UNDER_WAY_MAX
    assert len(ends) == 3
    client.messages.pop().on_done(ClientFault(END, "refused"))
    plain.bus.read_async(END, 4, ends.append)
    assert len(client.messages) == UNDER_WAY_MAX


def test_nothing_comes_of_what_was_cancelled(plain: Plain, client: Asked) -> None:
    ends: Ends = []
    plain.bus.read_async(END, 4, ends.append)
    (late,) = client.messages
    plain.device_reset()
    late.on_done(b"late")
    assert ends == []
    assert not plain.bus.referring


def test_message_does_not_go_when_bus_mastering_has_ended(plain: Plain, client: Asked) -> None:
    with pytest.raises(DmaRefused):
        plain.bus.read(END, 4)
    (asked,) = client.messages
    assert asked.allowed()
    plain.region_write(7, 4, COMMAND_MEMORY)
    assert not asked.allowed()


# The protection unit, which judges what the map lets through.


@pytest.fixture
def platform(plain: Plain, client: Asked) -> Platform:
    made = Platform(Trace())
    made.attach(client)
    plain.bus.interconnect = made.interconnect
    write32(made, 0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)
    return made


def grant(platform: Platform, address: int, length: int, direction: GrantDirection) -> None:
    for register, value in (
        (Plat.GRANT_ADDRESS_LO, address),
        (Plat.GRANT_LENGTH_LO, length),
        (Plat.GRANT_DIRECTION, direction),
        (Plat.PROTECTION_CTL, ProtectionCommand.GRANT),
    ):
        write32(platform, 0, register, value)


ATTEMPTS: list[Callable[[Bus, int], None]] = [
    lambda bus, address: bus.write(address, b"data"),
    lambda bus, address: bus.write_list([(address, b"data")]),
    lambda bus, address: bus.write_async(address, b"data", raise_it),
    lambda bus, address: bus.write_list_async([(address, b"data")], raise_it),
]


def raise_it(outcome: object) -> None:
    if isinstance(outcome, DmaRefused):
        raise outcome


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize(
    ("address", "reason"), [(END, DmaReason.UNMAPPED), (READ_ONLY_BASE, DmaReason.READ_ONLY)]
)
def test_the_map_judges_before_the_unit(
    plain: Plain,
    platform: Platform,
    client: Asked,
    attempt: Callable[[Bus, int], None],
    address: int,
    reason: DmaReason,
) -> None:
    """So the IOMMU raises its fault, and the unit keeps none."""
    if attempt in ATTEMPTS[:2]:
        with pytest.raises(DmaRefused, match=reason.name):
            attempt(plain.bus, address)
    else:
        attempt(plain.bus, address)
        with pytest.raises(DmaRefused, match=reason.name):
            client.refuse()
    assert read32(platform, 0, Plat.FAULT_COUNT) == 0


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_unit_denies_what_is_mapped(
    plain: Plain, platform: Platform, client: Asked, attempt: Callable[[Bus, int], None]
) -> None:
    grant(platform, BASE, 4096, GrantDirection.OUT)
    with pytest.raises(DmaRefused, match="PROTECTION_DIRECTION"):
        attempt(plain.bus, BASE)
    assert client.messages == []
    assert read32(platform, 0, Plat.FAULT_COUNT) == 1


def test_the_unit_denies_reads_of_what_is_mapped_for_writes(
    plain: Plain, platform: Platform, client: Asked
) -> None:
    """Linux's VFIO lets a device read what was mapped for its writes alone."""
    grant(platform, BASE, 4096, GrantDirection.IN)
    plain.bus.write(BASE, b"data")
    with pytest.raises(DmaRefused, match="PROTECTION_DIRECTION"):
        plain.bus.read(BASE, 4)
    assert client.messages == []


def test_the_unit_judges_what_only_the_client_reaches(
    plain: Plain, platform: Platform, client: Asked
) -> None:
    ends: Ends = []
    plain.bus.read_async(FAR, 4, ends.append)
    assert client.messages == []
    assert "PROTECTION_OUTSIDE" in str(ends[0])
    assert read32(platform, 0, Plat.FAULT_COUNT) == 1


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_without_an_iommu_the_unit_judges_first(
    plain: Plain, platform: Platform, attempt: Callable[[Bus, int], None]
) -> None:
    plain.bus.referral = None
    with pytest.raises(DmaRefused, match="PROTECTION_OUTSIDE"):
        attempt(plain.bus, END)
    assert read32(platform, 0, Plat.FAULT_COUNT) == 1


# The page at fault.


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (0x1000, Piece(0x1000, 8, b"01234567")),
        (0x1006, Piece(0x1006, 2, b"67")),
        (0x2FFE, Piece(0x2FFE, 2, b"ab")),
        (0x3000, Piece(0x3000, 2, b"cd")),
        (0x3002, None),
    ],
)
def test_page_at_fault(address: int, found: Piece | None) -> None:
    pieces = [Piece(0x1000, 8, b"01234567"), Piece(0x2FFE, 4, b"abcd")]
    assert page_at_fault(pieces, address) == found
