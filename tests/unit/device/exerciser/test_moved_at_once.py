# SPDX-License-Identifier: Apache-2.0
"""A DMA that is one copy in mapped memory: the same as any other, without the bus's queue."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from dma_rehearsal.device.endpoints import dma_engine
from dma_rehearsal.device.endpoints.dma import DmaRefused, Ranges
from dma_rehearsal.device.endpoints.dma_queue import MAX_QUEUED_BYTES, DmaQueue, Started
from dma_rehearsal.device.endpoints.interconnect import Refusal, Request
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import FaultyBehaviour
from dma_rehearsal.device.layout import (
    RID_VALID,
    DmaReason,
    Ext,
    Reg,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import (
    BASE,
    SIZE,
    FakeClient,
    MappedClient,
    dma,
    read32,
    record,
    start,
    write32,
)

DATA = bytes(range(256)) * 4


def device_of(client: FakeClient, kind: type[Exerciser] = Exerciser) -> Exerciser:
    made = kind(Trace())
    made.attach(client)
    start(made)
    return made


@pytest.fixture
def mapped() -> MappedClient:
    return MappedClient()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bus's queue, by the lengths of the DMAs that it took."""
    found: list[int] = []
    take = DmaQueue.start

    def noted(queue: DmaQueue, dma: Started) -> bool:
        found.append(dma.length)
        return take(queue, dma)

    monkeypatch.setattr(DmaQueue, "start", noted)
    return found


@pytest.mark.parametrize("write", [False, True])
def test_records_and_bytes_are_those_of_the_queue(
    mapped: MappedClient, queued: list[int], write: bool
) -> None:
    plain = FakeClient()
    plain.ram[64:1088] = mapped.mapped[64:1088] = DATA
    ours, theirs = device_of(mapped), device_of(plain)
    records = []
    for device in (ours, theirs):
        device.region_write(1, 300, DATA[::-1])
        records.append(dma(device, BASE + 64, 1000, write=write, offset=304))
    assert records[0] == records[1]
    assert records[0]["moved"] == 1000
    assert ours.buffer == theirs.buffer
    assert mapped.mapped[:] == plain.ram
    assert list(ours.bus.transactions) == list(theirs.bus.transactions)
    assert ours.bus.interconnect.sequence == theirs.bus.interconnect.sequence == 1
    assert queued == [1000], "the second one's alone"


# Of a chain: descriptors, and whether the device's side of them is one piece of its buffer.
CHAINS = {
    "one": ([(4096, 1024, 0)], True),
    "adjacent": ([(8192, 100, 0), (4096, 24, 100), (4100, 900, 124)], True),
    "gap": ([(8192, 100, 0), (4096, 24, 101)], False),
    "overlap": ([(8192, 100, 0), (4096, 24, 50)], False),
    "backwards": ([(8192, 100, 24), (4096, 24, 0)], False),
}


def run_chain(device: Exerciser, chain: list[tuple[int, int, int]], flag: RingFlag) -> bytes:
    """Run descriptors, which are in memory, as one transfer; return the ring's bytes."""
    last = len(chain) - 1
    ring = b"".join(
        RingDescriptor(BASE + place, length, offset, flag | RingFlag.CHAIN * (index < last)).pack()
        for index, (place, length, offset) in enumerate(chain)
    )
    device.bus.write(BASE, ring)
    for register, value in (
        (Ext.RING_BASE_LO, BASE),
        (Ext.RING_SIZE, len(chain) + 1),
        (Ext.RING_CONTROL, 1),
        (Ext.RING_DOORBELL, len(chain)),
    ):
        write32(device, 3, register, value)
    return ring


@pytest.mark.parametrize("flag", [RingFlag(0), RingFlag.WRITE_MEMORY])
@pytest.mark.parametrize("name", CHAINS)
def test_transfers_of_the_ring_are_those_of_the_queue(
    mapped: MappedClient, queued: list[int], name: str, flag: RingFlag
) -> None:
    chain, at_once = CHAINS[name]
    plain = FakeClient()
    plain.ram[4096 : 4096 + 1024] = mapped.mapped[4096 : 4096 + 1024] = DATA[::-1]
    ours, theirs = device_of(mapped), device_of(plain)
    for device in (ours, theirs):
        device.region_write(1, 0, DATA)
        queued.clear()
        ring = run_chain(device, chain, flag)
        whole = sum(length for _, length, _ in chain)
        assert queued == [len(ring)] + [whole] * (device is theirs or not at_once)
        assert read32(device, 3, Ext.RING_TRANSFERS) == 1
    assert record(ours, 1) == record(theirs, 1)
    assert ours.buffer == theirs.buffer
    assert mapped.mapped[:] == plain.ram
    assert list(ours.bus.transactions) == list(theirs.bus.transactions)


def _started_before(device: Exerciser) -> None:
    device.bus.read_async(BASE, 4, lambda _: None)


def _cached(device: Exerciser) -> None:
    device.bus.interconnect.caches = Mock()


def _held(device: Exerciser) -> None:
    device.bus.queue.holding = True


def _gated(device: Exerciser) -> None:
    device.bus.gate = lambda: None


def _limited(device: Exerciser) -> None:
    device.bus.limits = lambda _ranges: None


@pytest.mark.parametrize("prepare", [_started_before, _cached, _held, _gated, _limited])
def test_bus_leaves_what_is_not_to_go_at_once(
    mapped: MappedClient, prepare: Callable[[Exerciser], None]
) -> None:
    device = device_of(mapped)
    prepare(device)
    view = memoryview(bytearray(4))
    for write in (False, True):
        assert device.bus.move_at_once([(BASE, 4)], view, write=write) is None
    assert list(device.bus.transactions) == []


def test_another_thread_than_the_server_s_is_told(mapped: MappedClient) -> None:
    device = device_of(mapped)
    device.bus.check_thread = Mock(side_effect=RuntimeError("a DMA"))
    with pytest.raises(RuntimeError, match="a DMA"):
        device.bus.move_at_once([(BASE, 4)], memoryview(bytearray(4)), write=True)
    assert list(device.bus.transactions) == []


def test_range_that_leaves_the_mapping_goes_another_way(mapped: MappedClient) -> None:
    device, view = device_of(mapped), memoryview(bytearray(4))
    assert device.bus.move_at_once([(BASE + SIZE - 2, 4)], view, write=True) is None
    assert device.bus.move_at_once([(BASE + SIZE - 4, 4)], view, write=True) == (
        zlib.crc32(bytes(4))
    )


@pytest.mark.parametrize("write", [False, True])
def test_refusal_of_the_interconnect_is_recorded_once(mapped: MappedClient, write: bool) -> None:
    asked: list[Request] = []

    def refuse(request: Request) -> Refusal:
        asked.append(request)
        return Refusal(DmaReason.PROTECTION_DIRECTION, request.address)

    device = device_of(mapped)
    mapped.mapped[:4] = b"kept"
    device.region_write(1, 0, b"both")
    device.bus.interconnect.add_check(refuse)
    found = dma(device, BASE, 4, write=write)
    assert (found["reason"], found["moved"], found["crc32"]) == (
        DmaReason.PROTECTION_DIRECTION,
        0,
        0,
    )
    assert len(asked) == device.bus.interconnect.refusals.count == 1
    assert (mapped.mapped[:4], device.region_read(1, 0, 4)) == (b"kept", b"both")


@pytest.mark.parametrize("write", [False, True])
def test_what_leaves_the_device_is_what_was_asked_for(mapped: MappedClient, write: bool) -> None:
    """Behind the first byte: to the interconnect, and in the list of requests."""
    asked: list[Request] = []
    device = device_of(mapped)
    device.requester_id = 0x20
    device.bus.interconnect.add_check(asked.append)
    write32(device, 0, Reg.RID_CTL, RID_VALID | 0x21)
    dma(device, BASE, 4, write=write)
    (request,) = asked
    assert (request.write, request.address, request.length) == (write, BASE, 4)
    assert request.requester_id == request.attributes.requester_id == 0x21
    (kept,) = device.bus.transactions
    assert kept.attributes == request.attributes


@pytest.mark.parametrize("flag", [RingFlag(0), RingFlag.WRITE_MEMORY])
def test_a_refused_segment_refuses_the_transfer(mapped: MappedClient, flag: RingFlag) -> None:
    device = device_of(mapped)
    device.region_write(1, 0, DATA)
    before = mapped.mapped[4096:]

    def refuse(request: Request) -> Refusal | None:
        second = request.address == BASE + 8192
        return Refusal(DmaReason.PROTECTION_OUTSIDE, BASE + 8192) if second else None

    device.bus.interconnect.add_check(refuse)
    run_chain(device, [(4096, 10, 0), (8192, 10, 10)], flag)
    assert read32(device, 3, Ext.RING_STATUS) == RingStatus.REFUSED
    assert record(device, 1)["reason"] == DmaReason.PROTECTION_OUTSIDE
    assert (mapped.mapped[4096:], device.buffer[: len(DATA)]) == (before, DATA)


@pytest.mark.parametrize("place", [-4, -1, SIZE - 3, SIZE])
@pytest.mark.parametrize("write", [False, True])
def test_each_range_of_a_list_is_in_the_mapping(
    mapped: MappedClient, place: int, write: bool
) -> None:
    device, view = device_of(mapped), memoryview(bytearray(8))
    assert device.bus.move_at_once([(BASE, 4), (BASE + place, 4)], view, write=write) is None
    assert list(device.bus.transactions) == []


def test_own_bar_in_the_midst_of_a_mapping_is_refused(mapped: MappedClient) -> None:
    device = device_of(mapped)
    device.region_write(7, 0x14, (BASE + 0x1_0000).to_bytes(4, "little"))
    found = dma(device, BASE + 0x1_0000, 4, write=True)
    assert (found["reason"], found["moved"]) == (DmaReason.OWN_BAR, 0)


def test_held_dma_moves_by_its_steps(mapped: MappedClient) -> None:
    device = device_of(mapped)
    device.region_write(1, 0, b"data")
    write32(device, 3, Ext.HOLD, 1)
    dma(device, BASE, 4, write=True)
    assert mapped.mapped[:4] == bytes(4)
    write32(device, 3, Ext.STEP, 3)
    assert mapped.mapped[:4] == b"dat\0"


def test_sloppy_device_uses_the_address_that_it_is_able_to(mapped: MappedClient) -> None:
    device = Exerciser(Trace(), profile=Profile(name="sloppy", alignment=64, sloppy=True))
    device.attach(mapped)
    start(device)
    device.region_write(1, 0, b"data")
    found = dma(device, BASE + 70, 4, write=True)
    assert (found["address_lo"], found["used_lo"]) == (BASE + 70, BASE + 64)
    assert mapped.mapped[64:74] == b"data" + bytes(6)


def test_a_refusal_that_waits_ends_before_it(mapped: MappedClient) -> None:
    device = device_of(mapped)
    device.bus.read_async(BASE, MAX_QUEUED_BYTES + 1, lambda _: None)
    view = memoryview(bytearray(4))
    assert device.bus.move_at_once([(BASE, 4)], view, write=True) is None
    device.go_on()
    assert device.bus.move_at_once([(BASE, 4)], view, write=True) is not None


def test_limits_of_the_device_refuse_it_once(mapped: MappedClient) -> None:
    def limits(ranges: Ranges) -> None:
        raise DmaRefused(DmaReason.MAX_TRANSFER, ranges[0][0])

    device = device_of(mapped)
    device.region_write(1, 0, b"data")
    device.bus.limits = limits
    assert dma(device, BASE, 4, write=True)["reason"] == DmaReason.MAX_TRANSFER
    assert device.bus.interconnect.refusals.count == 1
    assert mapped.mapped[:4] == bytes(4)


def test_without_bus_mastering_it_is_refused_once(mapped: MappedClient) -> None:
    device = device_of(mapped)
    device.region_write(7, 4, b"\x02\x00")
    assert dma(device, BASE, 4, write=True)["reason"] == DmaReason.BUS_MASTER_OFF
    assert device.bus.interconnect.refusals.count == 1


def test_own_way_to_transfer_is_asked(mapped: MappedClient) -> None:
    class Wrong(Exerciser):
        def transfer(self, transfer: Transfer, done: Moved) -> None:
            done(transfer.direction, b"invented")

    device = device_of(mapped, Wrong)
    assert dma(device, BASE, 8, write=True)["crc32"] == zlib.crc32(b"invented")
    assert mapped.mapped[:8] == bytes(8)


def test_fault_gets_every_transfer(mapped: MappedClient) -> None:
    lengths: list[int] = []

    class Noted(FaultyBehaviour):
        def transfer(self, transfer: Transfer, done: Moved) -> None:
            lengths.append(transfer.length)
            super().transfer(transfer, done)

    device = device_of(mapped)
    device.behaviour = Noted(device)
    dma(device, BASE, 8, write=True)
    device.behaviour = device
    dma(device, BASE, 9, write=True)
    assert lengths == [8]


def test_no_peer_comes_between_the_bytes_and_their_crc(
    mapped: MappedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_of(mapped)
    free: list[bool] = []

    def try_lock() -> None:
        lock = device.bus.interconnect.lock
        free.append(lock.acquire(blocking=False))
        if free[-1]:
            lock.release()

    def crc32(data: memoryview) -> int:
        peer = threading.Thread(target=try_lock)
        peer.start()
        peer.join()
        return zlib.crc32(data)

    monkeypatch.setattr(dma_engine, "zlib", Mock(crc32=crc32))
    dma(device, BASE, 8, write=True)
    assert free == [False]
    try_lock()
    assert free == [False, True]
