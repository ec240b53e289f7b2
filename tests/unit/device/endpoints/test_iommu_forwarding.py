# SPDX-License-Identifier: Apache-2.0
"""Behind an IOMMU: what the map refuses is told to the client, with the page at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dma_rehearsal.device.endpoints.bars import MemoryBar
from dma_rehearsal.device.endpoints.bus import UNTOLD_MAX, Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.iommu_forwarding import page_at_fault
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
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
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import ClientFault, NoDescriptor
from dma_rehearsal.device.vfio_user.model import Ask
from tests.unit.device.fakes import (
    BASE,
    READ_ONLY_BASE,
    SIZE,
    FakeClient,
    answer,
    dma,
    read32,
    write32,
)

COMMAND_MASTER = b"\x06\x00"
COMMAND_MEMORY = b"\x02\x00"
END = BASE + SIZE
E = TypeVar("E", bound=Endpoint)
FAR = 0x4000_0000  # only the client reaches it


class Asked(FakeClient):
    """Keeps what it is asked by messages; the test answers. Its faults are of the first byte."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if BASE <= address < END < address + length:
            address = END
        if FAR <= address < FAR + SIZE:
            raise NoDescriptor(address)
        return super().memory(address, length, write=write)

    def refuse(self) -> None:
        """Answer the only message as an IOMMU does."""
        (asked,) = self.messages
        self.answer(ClientFault(asked.address, "refused"))


class Plain(Endpoint):
    """A device of one's own."""

    identity = Identity(vendor_id=0x1234, device_id=2, class_code=0xFF0000)


def behind_iommu(made: E, client: Asked) -> E:
    made.bus.behind_iommu = True
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
    exerciser.bus.behind_iommu = False
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
    assert len(client.messages) == 1
    if how == "reset":
        exerciser.device_reset()
        answer(exerciser)
    elif how == "bus master":
        exerciser.region_write(7, 4, COMMAND_MEMORY)
    else:
        exerciser.detach()
    assert not busy(exerciser)
    count = read32(exerciser, 3, Ext.DMA_COUNT)
    assert count == (how != "reset")
    client.answer(ClientFault(END, "late"))
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
    assert client.messages == []
    plain.go_on()
    (asked,) = client.messages
    assert (asked.address, asked.length) == (END, 4)
    assert asked.data == (b"data" if write else None)
    assert plain.bus.forwarding
    assert ends == []
    client.refuse()
    assert not plain.bus.forwarding
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
    plain.go_on()
    client.answer(b"" if write else b"late")
    assert isinstance(ends[0], DmaRefused)
    told = [(each["reason"], each["moved"], each["write"]) for each in requests(tmp_path / "trace")]
    assert told == [("UNMAPPED", 0, write), ("NONE", 4, write)]
    assert [each.reason for each in plain.bus.transactions] == [DmaReason.UNMAPPED, DmaReason.NONE]


def told(plain: Plain, client: Asked) -> list[int]:
    """Answer all that is asked; return the addresses."""
    found: list[int] = []
    plain.go_on()
    while client.messages:
        (asked,) = client.messages
        found.append(asked.address)
        client.refuse()
    return found


def test_refusals_that_wait_to_be_told_are_bounded(plain: Plain, client: Asked) -> None:
    pages = [END + number * PAGE for number in range(UNTOLD_MAX + 3)]
    for _ in range(2):
        for page in pages:
            with pytest.raises(DmaRefused):
                plain.bus.read(page, 4)
        assert told(plain, client) == pages[:UNTOLD_MAX]


def test_refusals_that_a_reset_forgets_make_room(plain: Plain, client: Asked) -> None:
    pages = [END + number * PAGE for number in range(UNTOLD_MAX)]
    for _ in range(2):
        for page in pages:
            with pytest.raises(DmaRefused):
                plain.bus.read(page, 4)
        plain.bus.cancel()
        assert told(plain, client) == []
    for page in pages:
        with pytest.raises(DmaRefused):
            plain.bus.read(page, 4)
    assert told(plain, client) == pages


def test_each_is_told_before_the_next_dma(plain: Plain, client: Asked) -> None:
    """A DMA that was started behind a refusal is done when the client's IOMMU maps it."""
    ends: Ends = []
    plain.bus.read_async(END, 4, ends.append)
    plain.bus.write_async(BASE, b"data", ends.append)
    plain.go_on()
    assert client.ram[:4] == bytes(4)
    client.refuse()
    assert client.ram[:4] == b"data"
    assert isinstance(ends[0], DmaRefused)
    assert ends[1] == b""


def test_nothing_comes_of_what_was_cancelled(plain: Plain, client: Asked) -> None:
    ends: Ends = []
    plain.bus.read_async(END, 4, ends.append)
    plain.go_on()
    plain.device_reset()
    client.answer(b"late")
    assert ends == []
    assert not plain.bus.forwarding


@pytest.mark.parametrize("mapped", [False, True])
def test_page_that_was_mapped_in_between_is_recorded_of_what_was_dropped(
    plain: Plain, client: Asked, mapped: bool
) -> None:
    """The client has the message already, and may store its bytes."""
    ends: Ends = []
    dropped = plain.bus.write_async(END, b"data", ends.append)
    plain.go_on()
    plain.bus.drop(dropped)
    if mapped:
        client.answer(b"")
    else:
        client.refuse()
    plain.go_on()
    found = [(each.address, each.length, each.reason) for each in plain.bus.transactions]
    assert found == [(END, 4, DmaReason.UNMAPPED)] + [(END, 4, DmaReason.NONE)] * mapped
    assert (ends, plain.bus.queue.idle, plain.bus.forwarding) == ([], True, False)


def test_message_does_not_go_when_bus_mastering_has_ended(plain: Plain, client: Asked) -> None:
    with pytest.raises(DmaRefused):
        plain.bus.read(END, 4)
    plain.region_write(7, 4, COMMAND_MEMORY)
    plain.go_on()
    assert client.messages == []


# The protection unit, which judges what the map lets through.


@pytest.fixture
def platform(plain: Plain, client: Asked) -> Platform:
    made = Platform(Trace())
    made.attach(client)
    answer(made)
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


ATTEMPTS: list[Callable[[Bus, int, Ends], object]] = [
    lambda bus, address, _: bus.write(address, b"data"),
    lambda bus, address, _: bus.write_list([(address, b"data")]),
    lambda bus, address, ends: bus.write_async(address, b"data", ends.append),
    lambda bus, address, ends: bus.write_list_async([(address, b"data")], ends.append),
]


def refusal(plain: Plain, client: Asked, attempt: int, address: int) -> DmaReason:
    """Return why an attempt is refused, and have the client's IOMMU refuse what it is told."""
    ends: Ends = []
    try:
        ATTEMPTS[attempt](plain.bus, address, ends)
    except DmaRefused as refused:
        ends.append(refused)
    told(plain, client)
    (end,) = ends
    assert isinstance(end, DmaRefused)
    return end.reason


@pytest.mark.parametrize("attempt", range(len(ATTEMPTS)))
@pytest.mark.parametrize(
    ("address", "reason"), [(END, DmaReason.UNMAPPED), (READ_ONLY_BASE, DmaReason.READ_ONLY)]
)
def test_the_map_judges_before_the_unit(
    plain: Plain,
    platform: Platform,
    client: Asked,
    attempt: int,
    address: int,
    reason: DmaReason,
) -> None:
    """So the IOMMU raises its fault, and the unit keeps none."""
    assert refusal(plain, client, attempt, address) is reason
    assert read32(platform, 0, Plat.FAULT_COUNT) == 0


@pytest.mark.parametrize("attempt", range(len(ATTEMPTS)))
def test_the_unit_denies_what_is_mapped(
    plain: Plain, platform: Platform, client: Asked, attempt: int
) -> None:
    grant(platform, BASE, 4096, GrantDirection.OUT)
    assert refusal(plain, client, attempt, BASE) is DmaReason.PROTECTION_DIRECTION
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
    plain.go_on()
    assert client.messages == []
    assert "PROTECTION_OUTSIDE" in str(ends[0])
    assert read32(platform, 0, Plat.FAULT_COUNT) == 1


@pytest.mark.parametrize("attempt", range(len(ATTEMPTS)))
def test_without_an_iommu_the_unit_judges_first(
    plain: Plain, platform: Platform, client: Asked, attempt: int
) -> None:
    plain.bus.behind_iommu = False
    assert refusal(plain, client, attempt, END) is DmaReason.PROTECTION_OUTSIDE
    assert read32(platform, 0, Plat.FAULT_COUNT) == 1


# The page at fault.


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (0x1000, Ask(0x1000, 8, b"01234567")),
        (0x1006, Ask(0x1006, 2, b"67")),
        (0x2FFE, Ask(0x2FFE, 2, b"ab")),
        (0x3000, Ask(0x3000, 2, b"cd")),
        (0x3002, None),
    ],
)
def test_page_at_fault(address: int, found: Ask | None) -> None:
    segments = [(0x1000, b"01234567"), (0x2FFE, b"abcd")]
    assert page_at_fault(segments, address, write=True) == found
    ranges = [(start, len(data)) for start, data in segments]
    due = None if found is None else found._replace(data=None)
    assert page_at_fault(ranges, address, write=False) == due
