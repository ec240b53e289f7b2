# SPDX-License-Identifier: Apache-2.0
"""AtomicOps: what they do to memory, what admits them, and what the log says."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints import (
    AtomicOps,
    Bars,
    Capability,
    DmaRefused,
    Endpoint,
    Fabric,
    Identity,
    MemoryBar,
)
from dma_rehearsal.device.endpoints.interconnect import Interconnect, Refusal, Request
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.pci.pcie import PciExpress
from tests.unit.device.fakes import BASE, READ_ONLY_BASE, FakeClient, start

REQUESTER_ENABLE = 1 << 6
PLACE = 0xE000_0000


class Requester(Endpoint):
    identity = Identity(0x1234, 1, 0xFF0000)
    capabilities: ClassVar[tuple[Capability, ...]] = (AtomicOps(),)


class Completer(Endpoint):
    name = "completer"
    identity = Identity(0x1234, 2, 0xFF0000)
    bars: ClassVar[Bars] = {0: MemoryBar(4096)}
    capabilities: ClassVar[tuple[Capability, ...]] = (AtomicOps(completes=(4,)),)


def enable(endpoint: Endpoint, control: int = REQUESTER_ENABLE) -> None:
    express = endpoint.config.start_of(PciExpress)
    assert express is not None
    endpoint.region_write(7, express + 0x28, control.to_bytes(2, "little"))


def made(client: FakeClient, fabric: Fabric | None = None) -> Requester:
    endpoint = Requester(fabric=fabric)
    endpoint.attach(client)
    start(endpoint)
    enable(endpoint)
    return endpoint


@pytest.fixture
def requester(client: FakeClient) -> Requester:
    return made(client)


def requests(endpoint: Endpoint) -> list[tuple[bool, int, int, DmaReason]]:
    return [
        (each.write, each.address, each.length, each.reason) for each in endpoint.bus.transactions
    ]


WORDS = st.integers(0, 2**64 - 1)


@given(size=st.sampled_from([4, 8]), old=WORDS, value=st.integers(-(2**64), 2**64), other=WORDS)
def test_values(size: int, old: int, value: int, other: int) -> None:
    client = FakeClient()
    requester, mask = made(client), (1 << 8 * size) - 1
    old &= mask

    def stored() -> int:
        return int.from_bytes(client.ram[:size], "little")

    client.ram[:size] = old.to_bytes(size, "little")
    assert requester.bus.fetch_add(BASE, value, size=size) == old
    assert stored() == (old + value) & mask
    assert requester.bus.swap(BASE, value, size=size) == (old + value) & mask
    assert stored() == value & mask
    assert requester.bus.compare_swap(BASE, value & mask, other, size=size) == value & mask
    assert stored() == other & mask
    assert not any(client.ram[size:16]), "not a byte beside it"


def test_a_comparison_that_fails_writes_nothing(requester: Requester, client: FakeClient) -> None:
    client.ram[:4] = b"\x01\x02\x03\x04"
    assert requester.bus.compare_swap(BASE, 7, 8) == 0x0403_0201
    assert client.ram[:4] == b"\x01\x02\x03\x04"
    assert requests(requester) == [(False, BASE, 4, DmaReason.NONE)]


def test_it_is_a_read_and_a_write_in_the_log(requester: Requester) -> None:
    requester.bus.fetch_add(BASE + 8, 1, size=8)
    assert requests(requester) == [
        (False, BASE + 8, 8, DmaReason.NONE),
        (True, BASE + 8, 8, DmaReason.NONE),
    ]


def test_compare_and_swap_has_16_bytes_too(requester: Requester, client: FakeClient) -> None:
    assert requester.bus.compare_swap(BASE, 0, 1 << 127, size=16) == 0
    assert client.ram[15] == 0x80
    with pytest.raises(ValueError, match="16 bytes"):
        requester.bus.swap(BASE, 0, size=16)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (BASE + 2, DmaReason.ALIGNMENT),
        (0x10, DmaReason.UNMAPPED),
        (READ_ONLY_BASE, DmaReason.READ_ONLY),
    ],
)
def test_refusals(
    requester: Requester, client: FakeClient, address: int, reason: DmaReason
) -> None:
    before = bytes(client.ram)
    with pytest.raises(DmaRefused) as refused:
        requester.bus.fetch_add(address, 1)
    assert refused.value.reason is reason
    assert client.ram == before
    assert [each.reason for each in requester.bus.transactions] == [reason]


def test_software_turns_them_on(requester: Requester) -> None:
    """Device Control 2, section 7.5.3.16: AtomicOp Requester Enable, and bus mastering."""
    enable(requester, 0)
    with pytest.raises(DmaRefused) as refused:
        requester.bus.fetch_add(BASE, 1)
    assert refused.value.reason is DmaReason.ATOMIC_DISABLED
    enable(requester)
    requester.bus.fetch_add(BASE, 1)
    requester.region_write(7, Header.COMMAND, b"\x02\x00")
    with pytest.raises(DmaRefused) as refused:
        requester.bus.fetch_add(BASE, 1)
    assert refused.value.reason is DmaReason.BUS_MASTER_OFF


def test_a_function_that_does_not_declare_them(client: FakeClient) -> None:
    class Plain(Endpoint):
        identity = Identity(0x1234, 1, 0xFF0000)

    plain = Plain()
    plain.attach(client)
    start(plain)
    enable(plain)
    with pytest.raises(DmaRefused) as refused:
        plain.bus.swap(BASE, 1)
    assert refused.value.reason is DmaReason.ATOMIC_DISABLED


@pytest.mark.parametrize("denied", [False, True])
def test_the_interconnect_is_asked_for_both_directions(
    requester: Requester, client: FakeClient, denied: bool
) -> None:
    asked: list[bool] = []

    def check(request: Request) -> Refusal | None:
        asked.append(request.write)
        if request.write is denied:
            return Refusal(DmaReason.PROTECTION_DIRECTION, request.address)
        return None

    requester.bus.interconnect.add_check(check)
    with pytest.raises(DmaRefused) as refused:
        requester.bus.fetch_add(BASE, 1)
    assert refused.value.reason is DmaReason.PROTECTION_DIRECTION
    assert asked == [False, True][: denied + 1]
    assert client.ram[:4] == bytes(4)


def test_a_peers_bar_takes_the_sizes_that_it_declares(client: FakeClient) -> None:
    fabric = Fabric()
    requester, peer = made(client, fabric), Completer(fabric=fabric)
    peer.region_write(7, Header.BAR0, PLACE.to_bytes(4, "little"))
    peer.region_write(7, Header.COMMAND, b"\x02\x00")
    assert requester.bus.fetch_add(PLACE + 8, 5) == 0
    assert peer.memory(0)[8] == 5
    with pytest.raises(DmaRefused) as refused:
        requester.bus.fetch_add(PLACE, 5, size=8)
    assert refused.value.reason is DmaReason.ATOMIC_UNSUPPORTED
    assert not any(peer.memory(0)[:8])


def test_both_halves_are_one_step_for_all_others(requester: Requester) -> None:
    """From the first check to the last byte, nobody else has the interconnect's lock."""
    interconnect, free = requester.bus.interconnect, []

    def other() -> None:
        free.append(interconnect.lock.acquire(blocking=False))

    def look(*_: object) -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    interconnect.add_check(look, look)
    requester.bus.fetch_add(BASE, 1)
    assert free == [False] * 4, "checked and moved, as a read and as a write"
    look()
    assert free[4]


def test_functions_do_not_lose_each_others_additions(client: FakeClient) -> None:
    interconnect = Interconnect()
    both = [made(client), made(client)]
    for each in both:
        each.bus.interconnect = interconnect
    threads = [
        threading.Thread(target=lambda e=each: [e.bus.fetch_add(BASE, 1) for _ in range(500)])
        for each in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.ram[:4] == (1000).to_bytes(4, "little")
