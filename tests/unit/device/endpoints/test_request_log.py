# SPDX-License-Identifier: Apache-2.0
"""Every request of every function is one event of the trace; the refused ones are kept."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.request_log import RANGES_MAX
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    DmaCtl,
    DmaDirection,
    DmaReason,
    Ext,
    Plat,
    RingDescriptor,
    RingFlag,
)
from dma_rehearsal.device.layout import GrantDirection as Grant
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import ClientFault, NoDescriptor
from dma_rehearsal.device.vfio_user.model import MappedRange
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
from tests.unit.device.platform.protection_board import Board


class Own(Endpoint):
    """An endpoint of an author's, which has nothing of the exerciser."""

    name = "own"
    identity = Identity(vendor_id=0x1234, device_id=0x0ADD, class_code=0xFF0000)


class Told:
    """A board with a trace, and an endpoint beside the exerciser."""

    def __init__(self, client: FakeClient, path: Path) -> None:
        self.path = path
        self.trace = Trace(path)
        self.board = Board(client, self.trace)
        self.exerciser = self.board.exerciser
        self.platform = self.board.platform
        self.own = Own(self.trace)
        self.own.bus.interconnect = self.platform.interconnect
        self.own.attach(client)
        self.own.region_write(7, 4, b"\x06\x00")

    def all(self, name: str = "request") -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [each for each in events if each["event"] == name]

    def one(self) -> dict[str, Any]:
        (event,) = self.all()
        return event

    def refusals(self) -> list[tuple[str, str, int]]:
        """Return the reason, the first byte at fault and what moved, of each refused request."""
        told = [each for each in self.all() if each["reason"] != "NONE"]
        return [(each["reason"], each["byte"], each["moved"]) for each in told]


@pytest.fixture
def told(client: FakeClient, tmp_path: Path) -> Iterator[Told]:
    made = Told(client, tmp_path / "trace")
    yield made
    made.trace.close()


def test_any_endpoint(told: Told) -> None:
    told.trace.test = "tests/test_a.py::test_b"
    told.own.bus.write(BASE, bytes(8))
    told.own.bus.read(BASE + 64, 4)
    dma(told.exerciser, BASE, 16, write=True)
    found = told.all()
    assert [(each["device"], each["sequence"]) for each in found] == [
        *(("own", 1), ("own", 2), ("exerciser", 3))
    ]
    del found[0]["time"]
    assert found[0] == {
        "device": "own",
        "test": "tests/test_a.py::test_b",
        "event": "request",
        "sequence": 1,
        "write": True,
        "ranges": [[hex(BASE), 8]],
        "moved": 8,
        "reason": "NONE",
    }
    assert [each["test"] for each in told.all("dma")] == ["tests/test_a.py::test_b"]


def test_a_list_is_one_event_with_each_of_its_ranges(told: Told) -> None:
    """Neighbours too: where a buffer begins in a list can be the end of another one."""
    told.own.bus.write_list([(BASE, b"ab"), (BASE + 2, b"cd"), (BASE + 64, b"e")])
    assert told.own.bus.read_list([(BASE, 4), (BASE + 4, 1)]) == [b"abcd", bytes(1)]
    write, read = [(each["write"], each["ranges"], each["moved"]) for each in told.all()]
    assert write == (True, [[hex(BASE), 2], [hex(BASE + 2), 2], [hex(BASE + 64), 1]], 5)
    assert read == (False, [[hex(BASE), 4], [hex(BASE + 4), 1]], 5)


class OneMapping(FakeClient):
    """Memory in one mapping, which a function reaches without a look at each range."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped = mmap.mmap(-1, SIZE)

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        del write
        found = BASE <= address < BASE + SIZE
        return MappedRange(BASE, BASE + SIZE, self.mapped, 0) if found else None


def test_in_one_mapping_each_request_is_told_too(tmp_path: Path) -> None:
    client = OneMapping()
    told = Told(client, tmp_path / "trace")
    bus = told.own.bus
    told.board.enable()
    told.board.grant(BASE, 64, Grant.IN | Grant.OUT)
    bus.write(BASE, b"12345678")
    assert bus.read(BASE, 8) == b"12345678"
    bus.write_list([(BASE, b"ab"), (BASE + 8, b"cd")])
    assert bus.read_list([(BASE, 2), (BASE + 8, 2)]) == [b"ab", b"cd"]
    with pytest.raises(DmaRefused):
        bus.write(BASE + 64, b"x")
    with pytest.raises(DmaRefused):
        bus.read(BASE + 60, 8)
    with pytest.raises(DmaRefused):
        bus.write_list([(BASE, b"xx"), (BASE + 8, b"x"), (BASE + 128, b"x")])
    seen = [(each["write"], each["ranges"], each["moved"], each["reason"]) for each in told.all()]
    one, two = [[hex(BASE), 8]], [[hex(BASE), 2], [hex(BASE + 8), 2]]
    outside, past = "PROTECTION_OUTSIDE", "PROTECTION_PAST_END"
    assert seen == [
        *((True, one, 8, "NONE"), (False, one, 8, "NONE")),
        *((True, two, 4, "NONE"), (False, two, 4, "NONE")),
        (True, [[hex(BASE + 64), 1]], 0, outside),
        (False, [[hex(BASE + 60), 8]], 0, past),
        (True, [[hex(BASE + 128), 1]], 0, outside),
    ]
    assert [each["sequence"] for each in told.all()] == [1, 2, 3, 4, 5, 6, 7]
    assert client.mapped[:10] == b"ab345678cd", "what was refused moved nothing"
    told.trace.close()


@pytest.mark.parametrize(("write", "moved"), [(True, 4096), (False, 0)])
def test_messages_before_the_one_at_fault_have_moved(
    tmp_path: Path, write: bool, moved: int
) -> None:
    class Messages(FakeClient):
        message_max = 4096

        def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
            super().memory(address, length, write=write)
            raise NoDescriptor(address)

    client = Messages()
    told = Told(client, tmp_path / "trace")
    outcomes: list[Any] = []
    if write:
        told.own.bus.write_async(BASE, bytes(8192), outcomes.append)
    else:
        told.own.bus.read_async(BASE, 8192, outcomes.append)
    told.own.go_on()
    client.answer(b"" if write else bytes(4096))
    client.answer(ClientFault(BASE + 4096, "an error"))
    assert isinstance(outcomes[0], DmaRefused)
    assert told.refusals() == [("CLIENT_ERROR", hex(BASE + 4096), moved)]
    told.trace.close()


def test_a_list_of_thousands_has_an_end(told: Told) -> None:
    told.own.bus.read_list([(BASE + 2 * each, 1) for each in range(RANGES_MAX + 3)])
    event = told.one()
    assert (len(event["ranges"]), event["more"], event["moved"]) == (RANGES_MAX, 3, RANGES_MAX + 3)


def test_of_a_list_the_range_that_is_refused(told: Told) -> None:
    with pytest.raises(DmaRefused):
        told.own.bus.write_list([(BASE, bytes(4)), (READ_ONLY_BASE, bytes(8)), (BASE, b"a")])
    event = told.one()
    assert (event["ranges"], event["moved"]) == ([[hex(READ_ONLY_BASE), 8]], 0)
    assert (event["reason"], event["byte"]) == ("READ_ONLY", hex(READ_ONLY_BASE))


def test_a_list_that_the_client_cuts(told: Told, client: FakeClient) -> None:
    class Cut:
        def check(self, *_: object, **__: object) -> None:
            pass

        def read(self, *_: object, **__: object) -> bytes:
            if client.reaches:
                client.reaches = False
                return bytes(4)
            raise client_fault

        def write(self, _: object, data: bytes, **__: object) -> None:
            if len(data) == 4:
                raise client_fault

    from dma_rehearsal.device.vfio_user.errors import Unmapped

    client_fault = Unmapped(BASE + 64)
    caches: Any = Cut()
    told.platform.interconnect.caches = caches
    with pytest.raises(DmaRefused):
        told.own.bus.read_list([(BASE, 4), (BASE + 64, 4)])
    with pytest.raises(DmaRefused):
        told.own.bus.write(BASE + 64, bytes(4))
    with pytest.raises(DmaRefused):
        told.own.bus.write_list([(BASE, b"a"), (BASE + 8, b"bc"), (BASE + 64, bytes(4))])
    names = "write", "ranges", "moved", "reason"
    cut = [[hex(BASE + 64), 4]], 0, "UNMAPPED"
    assert [tuple(each[name] for name in names) for each in told.all()] == [
        *((False, [[hex(BASE), 4]], 4, "NONE"), (False, *cut)),
        (True, *cut),
        *((True, [[hex(BASE), 1], [hex(BASE + 8), 2]], 3, "NONE"), (True, *cut)),
    ]


@pytest.mark.parametrize("write", [False, True])
def test_at_once_or_later_it_is_told_once(told: Told, write: bool) -> None:
    outcomes: list[Any] = []
    for address in (BASE, BASE + SIZE):
        if write:
            told.own.bus.write_async(address, bytes(8), outcomes.append)
        else:
            told.own.bus.read_async(address, 8, outcomes.append)
    told.own.go_on()
    assert isinstance(outcomes.pop(), DmaRefused)
    seen = [(each["write"], each["moved"], each["reason"]) for each in told.all()]
    assert seen == [(write, 8, "NONE"), (write, 0, "UNMAPPED")]


def test_a_denied_request_says_what_is_nearest(told: Told) -> None:
    told.board.enable()
    told.board.grant(BASE, 64, Grant.IN | Grant.OUT, owner=9)
    with pytest.raises(DmaRefused):
        told.own.bus.write(BASE + 60, bytes(8))
    event = told.one()
    assert (event["reason"], event["byte"]) == ("PROTECTION_PAST_END", hex(BASE + 64))
    grant = {"id": 1, "address": hex(BASE), "length": 64, "direction": "IN_OUT", "owner": "0x9"}
    assert event["nearest"] == grant


def test_the_platforms_walks_are_no_requests(told: Told) -> None:
    told.platform.region_write(7, 4, b"\x06\x00")
    told.platform.bus.read(BASE, 8)
    with pytest.raises(DmaRefused):
        told.platform.bus.read(BASE + SIZE, 8)
    assert told.all() == []
    assert read32(told.platform, 0, Plat.REQUEST_COUNT) == 0
    assert read32(told.platform, 0, Plat.REFUSED_COUNT) == 0


# The device's own limits.


def too_long_for_the_buffer(exerciser: Exerciser) -> None:
    dma(exerciser, BASE, 16, write=True, offset=len(exerciser.buffer) - 8)


def reserved_type(exerciser: Exerciser) -> None:
    dma(exerciser, BASE, 16, write=True, control=3 << 10)


def no_translation(exerciser: Exerciser) -> None:
    dma(exerciser, BASE, 16, write=True, control=DmaCtl.USE_ATC)


def misaligned(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.ALIGNMENT, 64)
    dma(exerciser, BASE + 4, 16, write=True)


def too_long(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.MAX_TRANSFER, 8)
    dma(exerciser, BASE, 16, write=True)


def unmapped(exerciser: Exerciser) -> None:
    dma(exerciser, BASE + SIZE, 16, write=True)


def no_bus_mastering(exerciser: Exerciser) -> None:
    exerciser.region_write(7, 4, b"\x02\x00")
    dma(exerciser, BASE, 16, write=True)


@pytest.mark.parametrize(
    ("act", "reason", "byte"),
    [
        (too_long_for_the_buffer, DmaReason.BUFFER_RANGE, BASE),
        (reserved_type, DmaReason.RESERVED_ADDRESS_TYPE, BASE),
        (no_translation, DmaReason.NO_ATC_ENTRY, BASE),
        (misaligned, DmaReason.ALIGNMENT, BASE + 4),
        (too_long, DmaReason.MAX_TRANSFER, BASE),
        (unmapped, DmaReason.UNMAPPED, BASE + SIZE),
        (no_bus_mastering, DmaReason.BUS_MASTER_OFF, BASE),
    ],
)
def test_whoever_refuses_it_is_one_event(
    told: Told, act: Callable[[Exerciser], None], reason: DmaReason, byte: int
) -> None:
    act(told.exerciser)
    assert told.refusals() == [(reason.name, hex(byte), 0)]
    (event,) = told.all()
    assert (event["device"], event["write"], event["ranges"][0][1]) == ("exerciser", True, 16)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (1 << 31, DmaReason.BAD_DESCRIPTOR),
        (int(RingFlag.CHAIN), DmaReason.UNFINISHED_CHAIN),
    ],
)
def test_descriptors_that_the_ring_refuses(
    told: Told, client: FakeClient, flags: int, reason: DmaReason
) -> None:
    client.ram[:32] = RingDescriptor(BASE + 64, 8, 0, flags).pack()
    ring(told.exerciser, BASE)
    assert told.refusals() == [(reason.name, hex(BASE + 64), 0)]


def ring(exerciser: Exerciser, base: int) -> None:
    """Enable a ring of 4 descriptors, and ring for the first."""
    for register, value in (
        *((Ext.RING_BASE_LO, base), (Ext.RING_BASE_HI, base >> 32), (Ext.RING_SIZE, 4)),
        *((Ext.RING_CONTROL, 1), (Ext.RING_DOORBELL, 1)),
    ):
        write32(exerciser, 3, register, value)


def test_descriptors_that_cannot_be_read(told: Told) -> None:
    ring(told.exerciser, BASE + SIZE)
    assert told.refusals() == [("UNMAPPED", hex(BASE + SIZE), 0)]


def test_descriptors_beyond_the_address_lines(told: Told) -> None:
    write32(told.exerciser, 3, Ext.ADDRESS_BITS, 16)
    ring(told.exerciser, BASE)
    assert told.refusals() == [("ADDRESS_BITS", hex(BASE), 0)]


def test_a_dma_cut_short_by_bus_mastering(told: Told) -> None:
    write32(told.exerciser, 3, Ext.HOLD, 1)
    dma(told.exerciser, BASE, 16, write=True)
    write32(told.exerciser, 3, Ext.STEP, 4)
    told.exerciser.region_write(7, 4, b"\x02\x00")
    assert told.refusals() == [("BUS_MASTER_OFF", hex(BASE + 4), 4)]


@pytest.mark.parametrize("end", ["device_reset", "detach"])
def test_reset_and_a_client_that_goes_refuse_nothing(told: Told, end: str) -> None:
    write32(told.exerciser, 3, Ext.HOLD, 1)
    dma(told.exerciser, BASE, 16, write=True)
    getattr(told.exerciser, end)()
    assert told.refusals() == []
    assert [each["moved"] for each in told.all("dma")] == [0]


def test_an_author_says_it_of_a_limit_of_its_own(told: Told) -> None:
    told.own.bus.refuse(DmaReason.ALIGNMENT, [(BASE + 1, 4), (BASE + 9, 4)], write=False, moved=4)
    told.own.bus.refuse(DmaReason.RESET, [(BASE, 4)], write=False)
    assert told.refusals() == [("ALIGNMENT", hex(BASE + 9), 4)]
    with pytest.raises(ValueError, match="reason other than NONE"):
        told.own.bus.refuse(DmaReason.NONE, [(BASE, 4)], write=True)


# The platform's registers.


def refused(platform: Endpoint, number: int) -> dict[str, int]:
    write32(platform, 0, Plat.REFUSED_SELECT, number)
    names = ("VALID", "SEQUENCE", "REASON", "DIRECTION")
    found = {name: read32(platform, 0, Plat[f"REFUSED_{name}"]) for name in names}
    for name in ("ADDRESS", "LENGTH", "BYTE"):
        low, high = (read32(platform, 0, Plat[f"REFUSED_{name}_{end}"]) for end in ("LO", "HI"))
        found[name] = low | high << 32
    return found


def test_registers_of_a_refusal(client: FakeClient) -> None:
    board = Board(client)
    platform = board.platform
    dma(board.exerciser, BASE, 4, write=True)
    far = 0x12_3456_7000
    dma(board.exerciser, far, 8, write=True)
    assert read32(platform, 0, Plat.REQUEST_COUNT) == 2
    assert read32(platform, 0, Plat.REFUSED_COUNT) == 1
    assert refused(platform, 1) == {
        "VALID": 1,
        "SEQUENCE": 2,
        "REASON": DmaReason.UNMAPPED,
        "DIRECTION": DmaDirection.WRITE_MEMORY,
        "ADDRESS": far,
        "LENGTH": 8,
        "BYTE": far,
    }
    for number in (0, 2, 0xFFFF_FFFF):
        assert set(refused(platform, number).values()) == {0}


def test_the_newest_are_kept_and_a_reset_forgets_them(client: FakeClient) -> None:
    board = Board(client)
    platform = board.platform
    capacity = read32(platform, 0, Plat.REFUSED_CAPACITY)
    for index in range(capacity + 2):
        dma(board.exerciser, BASE + SIZE + index, 8, write=False)
    valid = [refused(platform, number)["VALID"] for number in (2, 3, capacity + 2)]
    assert valid == [0, 1, 1]
    assert refused(platform, capacity + 2)["ADDRESS"] == BASE + SIZE + capacity + 1
    platform.device_reset()
    answer(platform)
    assert read32(platform, 0, Plat.REFUSED_COUNT) == 0
    assert refused(platform, 1)["VALID"] == 0
    assert read32(platform, 0, Plat.REQUEST_COUNT) == capacity + 2, "one count for the process"
    dma(board.exerciser, BASE + SIZE, 8, write=False)
    assert refused(platform, 1)["SEQUENCE"] == capacity + 3


def test_mark(told: Told) -> None:
    write32(told.platform, 0, Plat.MARK, 7)
    assert read32(told.platform, 0, Plat.MARK) == 7
    assert [(each["device"], each["number"]) for each in told.all("mark")] == [("platform", 7)]
