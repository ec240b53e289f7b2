# SPDX-License-Identifier: Apache-2.0
"""The queue of started DMAs: nothing ends on its starter's stack, in order, bounded, once."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import dma_queue
from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar
from dma_rehearsal.device.endpoints.dma import DmaRefused, OnlyByMessage, Transaction
from dma_rehearsal.device.endpoints.dma_queue import (
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    TURN_BYTES,
    TURN_DMAS,
    Started,
)
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.config import Command, Identity
from dma_rehearsal.device.vfio_user.errors import ClientFault, NoDescriptor
from tests.unit.device.fakes import BASE, SIZE, FakeClient, read32, write32

FAR = 0x4000_0000  # the client alone reaches it
BAR0 = 0xE000_0000
Reg = IntEnum("Reg", {"GO": 0, "LEFT": 4, "ENDED_WITHIN": 8})
Ends = list[Any]


class Chain(Endpoint):
    """Follows a list in memory: the end of a DMA starts the next one. ``kind`` says how."""

    identity = Identity(vendor_id=0x1234, device_id=2, class_code=0xFF0000)
    bars: ClassVar[Bars] = {0: RegisterBar((Register(Reg.GO, Access.WO), Register(Reg.LEFT)))}
    command_at_reset = Command.BUS_MASTER | Command.MEMORY_SPACE

    def __init__(self) -> None:
        super().__init__()
        self.kind: Callable[[Chain], object] = Chain.one_read
        self.within = 0  # how deep in its own calls
        self.deepest = 0
        self.refused: list[Transaction] = []

    def write_go(self, links: int) -> None:
        """Follow so many links."""
        self.registers(0)[Reg.LEFT] = links
        self.follow()

    def follow(self) -> None:
        self.within += 1
        self.deepest = max(self.deepest, self.within)
        if self.registers(0)[Reg.LEFT]:
            self.registers(0)[Reg.LEFT] -= 1
            self.kind(self)
        self.within -= 1

    def one_read(self) -> None:
        self.bus.read_async(BASE, 16, lambda _: self.follow())

    def one_write(self) -> None:
        self.bus.write_async(BASE, b"link", lambda _: self.follow())

    def list_read(self) -> None:
        self.bus.read_list_async([(BASE, 8), (BASE + 64, 8)], lambda _: self.follow())

    def list_write(self) -> None:
        self.bus.write_list_async([(BASE, b"a"), (BASE + 64, b"b")], lambda _: self.follow())

    def own_bar(self) -> None:
        self.bus.read_async(BAR0, 4, lambda _: self.follow())

    def unmapped_list(self) -> None:
        self.bus.read_list_async([(BASE, 8), (1 << 50, 8)], lambda _: self.follow())

    def too_many(self) -> None:
        self.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, lambda _: self.follow())

    def nothing(self) -> None:
        self.bus.read_list_async([], lambda _: self.follow())

    def wrapping(self) -> None:
        self.bus.write_async((1 << 64) - 1, b"ab", lambda _: self.follow())

    def on_refused(self, transaction: Transaction) -> None:
        """Take note."""
        self.refused.append(transaction)


class Partly(FakeClient):
    """Memory at BASE that is mapped, and at FAR without a descriptor."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if address >= FAR and address + length <= FAR + (1 << 40):
            raise NoDescriptor(address)
        return super().memory(address, length, write=write)


@pytest.fixture
def client() -> Partly:
    return Partly()


@pytest.fixture
def chain(client: Partly) -> Chain:
    made = Chain()
    made.region_write(7, 0x10, BAR0.to_bytes(4, "little"))
    made.attach(client)
    return made


KINDS = [
    *(Chain.one_read, Chain.one_write, Chain.list_read, Chain.list_write, Chain.nothing),
    *(Chain.own_bar, Chain.unmapped_list, Chain.wrapping),
]


@pytest.mark.parametrize("kind", KINDS)
def test_list_of_a_guest_is_followed_without_recursion(
    chain: Chain, kind: Callable[[Chain], None]
) -> None:
    """And in mapped memory to its end, before the access is answered."""
    chain.kind = kind
    write32(chain, 0, Reg.GO, 3000)
    assert read32(chain, 0, Reg.LEFT) == 0
    assert chain.deepest == 1


def test_refusals_of_what_is_too_much_do_not_recurse(chain: Chain) -> None:
    """Each is told in a turn of its own: the queue never has it."""
    chain.kind = Chain.too_many
    write32(chain, 0, Reg.GO, 20)
    turns = 0
    while chain.registers(0)[Reg.LEFT]:
        assert chain.dma_ready
        chain.go_on()
        turns += 1
    assert (chain.deepest, turns) == (1, 18)


def test_without_a_client_the_refusals_come_the_same_way(chain: Chain) -> None:
    chain.detach()
    write32(chain, 0, Reg.GO, 3000)
    assert chain.registers(0)[Reg.LEFT] == 0
    assert (chain.deepest, chain.refused[-1].reason) == (1, DmaReason.UNMAPPED)


def test_turn_ends_after_so_many(chain: Chain) -> None:
    write32(chain, 0, Reg.GO, 2 * TURN_DMAS + 5)
    assert chain.registers(0)[Reg.LEFT] == TURN_DMAS + 4
    assert chain.dma_ready
    read32(chain, 0, Reg.LEFT)
    assert chain.registers(0)[Reg.LEFT] == 4
    chain.go_on()
    assert chain.registers(0)[Reg.LEFT] == 0
    assert not chain.dma_ready


def test_turn_ends_after_so_many_bytes(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dma_queue, "TURN_BYTES", 64)
    write32(chain, 0, Reg.GO, 10)
    assert chain.registers(0)[Reg.LEFT] == 5, "four of 16 bytes, and the fifth was started"
    assert MAX_QUEUED_BYTES <= TURN_BYTES, "what may be started fits a turn"


def test_ends_come_in_the_order_of_their_starts(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    bus = chain.bus
    bus.write_async(BASE, b"one", lambda _: ends.append("write"))
    bus.read_async(0, 4, lambda _: ends.append("refused"))
    bus.read_list_async([(BASE, 1), (FAR, 1)], lambda _: ends.append("message"))
    bus.write_list_async([(BASE, b"two")], lambda _: ends.append("list"))
    bus.read_async(BAR0, 4, lambda _: ends.append("own BAR"))
    chain.go_on()
    assert ends == ["write", "refused"]
    assert client.ram[:3] == b"one", "nothing overtakes"
    client.answer(b"x")
    assert ends == ["write", "refused", "message", "list", "own BAR"]


def test_timer_is_done_before_its_dma_ends(chain: Chain) -> None:
    ends: Ends = []

    def act() -> None:
        chain.bus.read_async(BASE, 4, lambda _: ends.append("dma"))
        ends.append("timer")

    chain.timers.after(0, act)
    chain.timers.run_due()
    assert ends == ["timer", "dma"]


def test_access_within_an_access_ends_nothing(chain: Chain) -> None:
    """A model that writes its own register: what that starts ends when the outer access is done."""
    ends: Ends = []

    def within(self: Chain) -> None:
        self.bus.read_async(BASE, 4, ends.append)
        self.region_write(7, 0x3C, b"\1")
        self.kind = Chain.one_read
        write32(self, 0, Reg.GO, 1)
        assert ends == []

    chain.kind = within
    write32(chain, 0, Reg.GO, 1)
    assert ends == [bytes(4)]


# Too many, too much.


def test_more_than_the_queue_takes_is_refused_behind_nothing(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    chain.bus.read_async(FAR, 1, lambda _: ends.append("first"))
    for _ in range(MAX_QUEUED - 1):
        chain.bus.read_async(BASE, 1, lambda _: ends.append("queued"))
    chain.bus.read_async(BASE, 1, ends.append)
    assert ends == []
    assert chain.refused[-1][:3] == (False, BASE, 1)
    chain.go_on()
    (refusal,) = ends
    assert isinstance(refusal, DmaRefused)
    assert refusal.reason is DmaReason.CLIENT_ERROR
    client.answer(b"x")
    assert ends[1:] == ["first", *["queued"] * (MAX_QUEUED - 1)]


def test_bytes_that_wait_are_bounded(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    chain.bus.read_async(FAR, MAX_QUEUED_BYTES, ends.append)
    chain.bus.write_list_async([(BASE, b"")], ends.append)
    chain.bus.write_list_async([(BASE, b""), (BASE, b"x")], ends.append)
    chain.go_on()
    (refusal,) = ends
    assert isinstance(refusal, DmaRefused)
    client.answer(ClientFault(FAR, "refused"))
    assert len(ends) == 3
    chain.bus.write_async(BASE, b"x", ends.append)
    chain.go_on()
    assert ends[-1] == b"", "what has ended counts no more"


def test_data_of_what_has_ended_is_not_held(chain: Chain, client: Partly) -> None:
    """The client is late; whatever it may still answer, the DMA's bytes are gone."""
    tracemalloc.start()
    try:
        for write in (True, False) * 3:
            ends: Ends = []
            if write:
                chain.bus.write_async(FAR, bytes(1 << 20), ends.append)
            else:
                chain.bus.read_async(FAR, 1 << 20, ends.append)
            chain.go_on()
            for _ in range(3):
                client.answer(b"" if write else bytes(client.message_max))
            client.answer(ClientFault(FAR, "late"))
            assert isinstance(ends[0], DmaRefused)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 18


# Events that end it early.


def test_what_is_cancelled_neither_moves_nor_ends(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    chain.bus.read_async(FAR, 4, ends.append)
    chain.bus.write_async(BASE, b"data", ends.append)
    chain.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, ends.append)
    chain.go_on()
    ends.clear()
    chain.bus.cancel()
    assert not chain.dma_ready
    client.answer(bytes(4))
    chain.go_on()
    assert ends == []
    assert client.ram[:4] == bytes(4)


def test_what_had_moved_of_a_write_that_a_reset_ends_is_recorded(
    chain: Chain, client: Partly
) -> None:
    client.message_max = 16
    chain.bus.read_async(FAR, 16, lambda _: None)
    chain.bus.write_async(FAR + 64, bytes(48), lambda _: None)
    chain.go_on()
    client.answer(bytes(16))
    client.answer(b"")
    chain.device_reset()
    assert moved(chain) == [(FAR, 16, DmaReason.NONE), (FAR + 64, 16, DmaReason.NONE)]
    client.answer(b"")
    assert len(chain.bus.transactions) == 2


def test_answer_that_is_owed_holds_back_messages_alone(chain: Chain, client: Partly) -> None:
    """After a reset: mapped memory is reached at once, the client is asked when it has answered."""
    ends: Ends = []
    chain.bus.read_async(FAR, 4, ends.append)
    chain.go_on()
    chain.device_reset()
    chain.bus.write_async(BASE, b"data", ends.append)
    chain.bus.read_async(FAR + 8, 4, ends.append)
    chain.go_on()
    assert ends == [b""]
    assert not chain.dma_ready
    assert client.answer(b"late").address == FAR
    assert client.answer(b"good").address == FAR + 8
    assert ends == [b"", b"good"]


def drop(chain: Chain, dma: Started) -> None:
    chain.bus.drop(dma)
    chain.go_on()


def moved(chain: Chain) -> list[tuple[int, int, DmaReason]]:
    return [(each.address, each.length, each.reason) for each in chain.bus.transactions]


def test_what_is_dropped_leaves_its_neighbours_in_their_order(chain: Chain, client: Partly) -> None:
    ends: Ends = []

    def write(address: int, name: str) -> Started:
        return chain.bus.write_async(address, name.encode(), lambda _: ends.append(name))

    a, b, c, d = write(FAR, "a"), write(BASE, "b"), write(FAR + 8, "c"), write(BASE + 8, "d")
    write(BASE + 9, "e")
    chain.go_on()
    drop(chain, b)
    drop(chain, d)
    drop(chain, d)
    client.answer(b"")
    assert client.answer(b"").address == FAR + 8
    assert ends == ["a", "c", "e"]
    assert client.ram[:10] == b"\0\0\0\0\0\0\0\0\0e"
    for ended in (a, c):
        drop(chain, ended)
    assert moved(chain) == [(at, 1, DmaReason.NONE) for at in (FAR, FAR + 8, BASE + 9)]
    assert (chain.bus.queue.idle, chain.bus.queue._bytes) == (True, 0)


@pytest.mark.parametrize("fault", [False, True])
def test_message_of_what_is_dropped_is_the_last_and_those_behind_wait_for_it(
    chain: Chain, client: Partly, fault: bool
) -> None:
    """Two segments by messages of 16 bytes: one is done, of the other one piece of three."""
    client.message_max = 16
    ends: Ends = []
    segments = [(FAR, bytes(16)), (FAR + 32, bytes(48))]
    dropped = chain.bus.write_list_async(segments, ends.append)
    chain.bus.write_async(BASE, b"next", ends.append)
    chain.bus.read_async(FAR + 256, 4, ends.append)
    chain.go_on()
    client.answer(b"")
    client.answer(b"")
    drop(chain, dropped)
    drop(chain, dropped)
    assert client.ram[:4] == bytes(4)
    assert not chain.dma_ready
    client.answer(ClientFault(FAR, "refused") if fault else b"")
    assert client.ram[:4] == b"next"
    assert client.answer(b"last").address == FAR + 256
    assert ends == [b"", b"last"]
    assert client.messages == []
    done = [(FAR, 16), (FAR + 32, 16 if fault else 32), (BASE, 4), (FAR + 256, 4)]
    assert moved(chain) == [(*each, DmaReason.NONE) for each in done]
    assert (chain.bus.queue.idle, chain.bus.queue._bytes) == (True, 0)


@pytest.mark.parametrize("write", [False, True])
def test_what_is_dropped_before_anything_moved_is_not_recorded(
    chain: Chain, client: Partly, write: bool
) -> None:
    ends: Ends = []
    if write:
        dropped = chain.bus.write_async(FAR, b"data", ends.append)
    else:
        dropped = chain.bus.read_async(FAR, 4, ends.append)
    chain.go_on()
    drop(chain, dropped)
    client.answer(ClientFault(FAR, "refused") if write else b"data")
    assert (ends, moved(chain), chain.bus.queue.idle) == ([], [], True)


def test_refusal_of_what_is_dropped_is_not_told(chain: Chain) -> None:
    ends: Ends = []
    too_much = [
        chain.bus.read_async(BASE, MAX_QUEUED_BYTES + each, ends.append) for each in (1, 2, 3)
    ]
    chain.bus.queue.drop(too_much[1])
    chain.go_on()
    assert len(ends) == 2
    ends.clear()

    def first(_outcome: object) -> None:
        ends.append("first")
        chain.bus.drop(second)

    chain.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, first)
    second = chain.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, lambda _: ends.append("second"))
    chain.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, lambda _: ends.append("third"))
    chain.go_on()
    assert ends == ["first", "third"]
    assert chain.bus.queue.idle


def test_drop_within_an_end(chain: Chain) -> None:
    ends: Ends = []

    def first(_outcome: object) -> None:
        ends.append("first")
        chain.bus.drop(second)

    chain.bus.read_async(BASE, 4, first)
    second = chain.bus.read_async(BASE, 4, ends.append)
    chain.bus.read_async(BASE, 4, lambda _: ends.append("third"))
    chain.go_on()
    assert ends == ["first", "third"]


@pytest.mark.parametrize("behind_iommu", [False, True])
@pytest.mark.parametrize("address", [0, FAR])
def test_drop_by_who_hears_of_its_refusal(
    chain: Chain, client: Partly, address: int, behind_iommu: bool
) -> None:
    """In the midst of the DMA. Nothing is sent for it any more, not to the IOMMU either."""
    chain.bus.behind_iommu = behind_iommu
    ends: Ends = []
    started: list[Started] = []
    chain.__dict__["on_refused"] = lambda _: chain.bus.drop(started[0])
    started.append(chain.bus.read_async(address, 4, ends.append))
    chain.bus.read_async(BASE, 4, ends.append)
    chain.go_on()
    if address:
        client.answer(ClientFault(address, "refused"))
    chain.go_on()
    assert ends == [bytes(4)]
    assert client.messages == []
    assert (chain.bus.queue.idle, chain.bus.forwarding) == (True, False)


def test_client_that_goes_after_a_drop(chain: Chain) -> None:
    ends: Ends = []
    dropped = chain.bus.write_async(FAR, b"data", ends.append)
    chain.bus.read_async(FAR, 4, ends.append)
    chain.go_on()
    drop(chain, dropped)
    chain.detach()
    assert [end.reason for end in ends] == [DmaReason.CLIENT_GONE]
    assert chain.bus.queue.idle


def test_reset_after_a_drop(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    dropped = chain.bus.write_async(FAR, b"data", ends.append)
    chain.go_on()
    drop(chain, dropped)
    chain.device_reset()
    chain.bus.read_async(FAR + 8, 4, ends.append)
    chain.go_on()
    client.answer(b"")
    client.answer(b"good")
    assert ends == [b"good"]


def test_cancel_within_an_end(chain: Chain) -> None:
    ends: Ends = []

    def cancel(_outcome: object) -> None:
        ends.append("first")
        chain.bus.cancel()

    chain.bus.read_async(BASE, 4, cancel)
    chain.bus.read_async(BASE, 4, ends.append)
    chain.go_on()
    assert ends == ["first"]


def test_reset_by_who_hears_of_a_refusal(chain: Chain, client: Partly) -> None:
    """The hook is called in the midst of the DMA, which has no end then."""
    ends: Ends = []
    for address in (0, FAR):
        chain.__dict__["on_refused"] = lambda _: chain.bus.cancel()
        chain.bus.read_async(address, 4, ends.append)
        chain.bus.read_async(BASE, 4, ends.append)
        chain.go_on()
        if client.messages:
            client.answer(ClientFault(address, "refused"))
        assert ends == []
        assert not chain.dma_ready


def test_client_that_goes_ends_all_in_order(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    for address in (FAR, BASE, 0):
        chain.bus.read_async(address, 4, ends.append)
    chain.go_on()
    chain.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, lambda _: ends.append("too much"))
    chain.detach()
    assert ends.pop(0) == "too much"
    assert [each.reason for each in ends] == [DmaReason.CLIENT_GONE] * 3
    assert [each.address for each in ends] == [FAR, BASE, 0]
    second = Partly()
    chain.attach(second)
    for address in (FAR, FAR + 8):
        chain.bus.read_async(address, 4, ends.append)
    chain.go_on()
    client.answer(b"late")
    assert len(second.messages) == 1, "it is the new one that is owed an answer"
    second.answer(b"more")
    assert ends[3:] == [b"more"]


def test_what_an_end_starts_when_the_client_goes_is_refused(chain: Chain) -> None:
    chain.kind = lambda self: self.bus.read_async(FAR, 4, lambda _: self.follow())
    write32(chain, 0, Reg.GO, 3)
    chain.detach()
    assert chain.registers(0)[Reg.LEFT] == 1
    chain.go_on()
    assert chain.registers(0)[Reg.LEFT] == 0
    assert [each.reason for each in chain.refused] == [
        *(DmaReason.CLIENT_GONE, DmaReason.UNMAPPED, DmaReason.UNMAPPED)
    ]


# Bugs of a model.


def test_end_that_fails_leaves_the_others(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    ends: Ends = []

    def fail(_outcome: object) -> None:
        raise LookupError("a bug of the author's")

    chain.bus.read_async(BASE, 4, fail)
    chain.bus.read_async(BASE, 4, ends.append)
    chain.go_on()
    assert ends == [bytes(4)]
    assert "a bug of the author's" in caplog.text


def test_refusal_that_an_end_does_not_catch_is_a_warning(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a register access: the device goes on."""
    chain.bus.read_async(BASE, 4, lambda _: chain.bus.write(0, b"data"))
    chain.go_on()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "UNMAPPED at 0x0" in record.getMessage()


def test_hook_that_fails_within_a_dma_ends_that_one(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_transaction: Transaction) -> None:
        raise LookupError("a bug of the author's")

    ends: Ends = []
    chain.__dict__["on_refused"] = fail
    chain.bus.read_async(0, 4, ends.append)
    chain.bus.read_async(BASE, 4, ends.append)
    chain.go_on()
    assert isinstance(ends[0], DmaRefused)
    assert ends[1] == bytes(4)
    assert "a bug of the author's" in caplog.text


# Lists by messages.


def test_list_with_bytes_that_only_the_client_reaches(chain: Chain, client: Partly) -> None:
    """Each range is a request of its own then."""
    ends: Ends = []
    client.ram[:4] = b"ramp"
    chain.bus.read_list_async([(FAR, 2), (BASE, 4), (FAR + 8, 3)], ends.append)
    chain.go_on()
    client.answer(b"ab")
    client.answer(b"cde")
    assert ends == [[b"ab", b"ramp", b"cde"]]
    chain.bus.write_list_async([(BASE, b"new"), (FAR, b"far")], ends.append)
    chain.go_on()
    assert client.ram[:3] == b"new"
    assert client.answer().data == b"far"
    assert ends[1] == []
    assert [each.address for each in chain.bus.transactions] == [FAR, BASE, FAR + 8, BASE, FAR]


def test_list_asks_for_nothing_unless_all_can_be_reached(chain: Chain, client: Partly) -> None:
    ends: Ends = []
    chain.bus.write_list_async([(BASE, b"x"), (FAR, b"far"), (BASE + SIZE, b"y")], ends.append)
    chain.go_on()
    (refusal,) = ends
    assert (refusal.reason, refusal.address) == (DmaReason.UNMAPPED, BASE + SIZE)
    assert (client.messages, client.ram[0]) == ([], 0)


def test_synchronously_it_is_refused(chain: Chain, client: Partly) -> None:
    with pytest.raises(OnlyByMessage):
        chain.bus.read_list([(BASE, 4), (FAR, 4)])
    assert client.messages == []
    assert [each.reason for each in chain.refused] == [DmaReason.UNMAPPED]


def test_segments_are_copied_when_it_starts(chain: Chain) -> None:
    ends: Ends = []
    segments = [(BASE, 4)]
    chain.bus.read_list_async(segments, ends.append)
    segments[0] = (0, 4)
    chain.go_on()
    assert ends == [[bytes(4)]]
