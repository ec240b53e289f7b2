# SPDX-License-Identifier: Apache-2.0
"""The asynchronous bus beside the other one: records, attributes, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.bars import MemoryBar
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, READ_ONLY_BASE, FakeClient, start

BAR0 = 0xE000_0000
DECODE_AND_MASTER = b"\x06\x00"


class Window(Endpoint):
    """One BAR of memory."""

    identity = Identity(vendor_id=0x1234, device_id=2, class_code=0xFF0000)


def make(fabric: Fabric, address: int) -> Window:
    made = Window(Trace(), bars={0: MemoryBar(0x1000)}, fabric=fabric)
    made.region_write(7, 0x10, address.to_bytes(4, "little"))
    made.region_write(7, 4, DECODE_AND_MASTER)
    return made


@pytest.fixture
def pair() -> tuple[Window, Window]:
    fabric = Fabric()
    first, second = make(fabric, BAR0), make(fabric, BAR0 + 0x1000)
    first.attach(FakeClient())
    return first, second


def read(function: Window, address: int, length: int = 4) -> bytes | DmaRefused:
    outcomes: list[bytes | DmaRefused] = []
    function.bus.read_async(address, length, outcomes.append, Attributes(no_snoop=True))
    assert outcomes == []
    function.go_on()
    (outcome,) = outcomes
    return outcome


def write(function: Window, address: int, data: bytes) -> bytes | DmaRefused:
    outcomes: list[bytes | DmaRefused] = []
    function.bus.write_async(address, data, outcomes.append)
    assert outcomes == []
    function.go_on()
    (outcome,) = outcomes
    return outcome


def test_each_is_recorded_once(pair: tuple[Window, Window]) -> None:
    function, _ = pair
    assert write(function, BASE, b"data") == b""
    assert read(function, BASE) == b"data"
    first, second = function.bus.transactions
    assert (first.write, first.address, first.length, first.reason) == (True, BASE, 4, 0)
    assert (second.write, second.attributes.no_snoop) == (False, True)


@pytest.mark.parametrize(
    ("address", "command", "reason"),
    [
        (BAR0, DECODE_AND_MASTER, DmaReason.OWN_BAR),
        (BASE, b"\2\0", DmaReason.BUS_MASTER_OFF),
        (READ_ONLY_BASE, DECODE_AND_MASTER, DmaReason.READ_ONLY),
        (0, DECODE_AND_MASTER, DmaReason.UNMAPPED),
        ((1 << 64) - 2, DECODE_AND_MASTER, DmaReason.ADDRESS_WRAP),
    ],
)
def test_what_is_refused_is_told_and_recorded(
    pair: tuple[Window, Window], address: int, command: bytes, reason: DmaReason
) -> None:
    function, _ = pair
    function.region_write(7, 4, command)
    outcome = write(function, address, b"data")
    assert isinstance(outcome, DmaRefused)
    assert outcome.reason is reason
    assert function.bus.transactions[-1].reason is reason


def test_without_a_client_nothing_is_reached(pair: tuple[Window, Window]) -> None:
    _, lonely = pair
    outcome = read(lonely, BASE)
    assert isinstance(outcome, DmaRefused)
    assert outcome.reason is DmaReason.UNMAPPED


def test_a_peers_bar_is_reached(pair: tuple[Window, Window]) -> None:
    function, peer = pair
    assert write(function, BAR0 + 0x1000, b"data") == b""
    assert peer.memory(0)[:4] == b"data"
    assert read(function, BAR0 + 0x1000) == b"data"
    outcome = read(function, BAR0 + 0x1FFE)
    assert isinstance(outcome, DmaRefused)
    assert (outcome.reason, outcome.address) == (DmaReason.UNMAPPED, BAR0 + 0x1FFE)


def test_lists_are_refused_whole_and_recorded_once(pair: tuple[Window, Window]) -> None:
    function, _ = pair
    outcomes: list[list[bytes] | DmaRefused] = []
    function.bus.write_list_async([(BASE, b"one"), (BASE + 8, b"two")], outcomes.append)
    function.bus.read_list_async([(BASE + 8, 3), (BAR0 + 0x1000, 2), (BASE, 3)], outcomes.append)
    function.go_on()
    assert outcomes == [[], [b"two", b"\0\0", b"one"]]
    assert len(function.bus.transactions) == 5
    function.bus.write_list_async([(BASE, b"new"), (0, b"x"), (BASE, b"more")], outcomes.append)
    function.go_on()
    refusal = outcomes[-1]
    assert isinstance(refusal, DmaRefused)
    assert refusal.reason is DmaReason.UNMAPPED
    kept = (refusal.__traceback__, refusal.__cause__)
    assert kept == (None, None), "memory that it keeps mapped"
    assert read(function, BASE, 3) == b"one"
    seen = [(each.address, each.reason) for each in function.bus.transactions]
    assert seen[5:] == [(0, DmaReason.UNMAPPED), (BASE, DmaReason.NONE)]


def test_a_message_is_in_the_trace_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that got it may end its test, and the trace be read, before the device goes on."""
    trace = Trace(tmp_path / "trace")
    function = Window(trace, bars={0: MemoryBar(0x1000)}, vectors=1)
    start(function)
    client, found = FakeClient(), list[str]()

    def trigger(_index: int, _subindex: int) -> bool:
        found.append((tmp_path / "trace").read_text().splitlines()[-1])
        return True

    monkeypatch.setattr(client, "trigger", trigger)
    function.attach(client)
    found.clear()
    assert function.msix(0)
    trace.close()
    assert '"msi-x"' in found[0]
