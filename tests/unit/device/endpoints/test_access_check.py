# SPDX-License-Identifier: Apache-2.0
"""A bus needs no Endpoint, only a `Function`; and each of its ways asks the function first."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused, Transaction
from dma_rehearsal.device.endpoints.memory_access import DirectAccess
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci import aer
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.base_addresses import BaseAddress
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Header, Identity
from dma_rehearsal.device.pci.pcie import DeviceStatus, PciExpress
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import NoDescriptor
from tests.unit.device.fakes import BASE, FakeClient, MappedClient

BAR = 0x4000_0000


class Bare:
    """All that a bus asks of its function."""

    name = "bare"
    coherent = True
    no_snoop_enabled = True

    def __init__(self) -> None:
        self.trace = Trace()
        self.config = ConfigSpace(Identity(0x1234, 0x5678, 0xFF0000), {0: BaseAddress(0x1000)})
        self._pcie = self.config.add(PciExpress(lambda: None))
        self.contents: dict[int, BarContent] = {}
        self.refused: list[Transaction] = []
        self.siblings: dict[int, Bare] = {}
        self.requester_id: int | None = None

    def on_refused(self, transaction: Transaction) -> None:
        self.refused.append(transaction)

    def traces_request(self, reason: DmaReason) -> bool:
        del reason
        return True

    def detect_error(
        self, error: Correctable | Uncorrectable, *, fatal: bool = False
    ) -> DeviceStatus:
        return aer.detect(self.config, self._pcie, error, fatal=fatal)

    def set_command(self, command: Command) -> None:
        self.config.write(Header.COMMAND, command.to_bytes(2, "little"))


@pytest.fixture
def function() -> Bare:
    made = Bare()
    made.config.write(Header.BAR0, BAR.to_bytes(4, "little"))
    made.set_command(Command.MEMORY_SPACE | Command.BUS_MASTER)
    return made


def bus_of(function: Bare, client: FakeClient) -> Bus:
    def uncaught(refusal: DmaRefused) -> None:
        raise AssertionError(refusal)

    made = Bus(function, Fabric(), uncaught)
    made.client = client
    return made


def later(start: Callable[..., object], bus: Bus, *args: object, **options: bool) -> None:
    """Do a DMA that is started, and raise its refusal."""
    ends: list[object] = []
    start(*args, ends.append, **options)
    bus.queue.go_on()
    (end,) = ends
    if isinstance(end, DmaRefused):
        raise end


def at_once(bus: Bus, address: int, *, write: bool) -> None:
    """Move without a copy between where that can be, else as a DMA that is started."""
    view = memoryview(bytearray(b"data"))
    if bus.move_at_once([(address, len(view))], view, write=write) is None:
        later(bus.read_async, bus, address, len(view))


WAYS: dict[str, Callable[[Bus, int], object]] = {
    "read": lambda bus, address: bus.read(address, 4),
    "write": lambda bus, address: bus.write(address, b"data"),
    "read_list": lambda bus, address: bus.read_list([(BASE, 4), (address, 4)]),
    "write_list": lambda bus, address: bus.write_list([(BASE, b"data"), (address, b"data")]),
    "read_async": lambda bus, address: later(bus.read_async, bus, address, 4),
    "write_async": lambda bus, address: later(bus.write_async, bus, address, b"data"),
    "read_at_once": lambda bus, address: at_once(bus, address, write=False),
    "write_at_once": lambda bus, address: at_once(bus, address, write=True),
    "by_message": lambda bus, address: later(bus.read_async, bus, address, 4, by_message=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", [FakeClient, MappedClient])
def test_own_bar_is_refused(function: Bare, client: type[FakeClient], way: str) -> None:
    bus = bus_of(function, client())
    with pytest.raises(DmaRefused, match="OWN_BAR"):
        WAYS[way](bus, BAR + 8)
    assert function.refused[-1].reason is DmaReason.OWN_BAR


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", [FakeClient, MappedClient])
def test_without_bus_mastering_nothing_leaves(
    function: Bare, client: type[FakeClient], way: str
) -> None:
    function.set_command(Command.MEMORY_SPACE)
    made = client()
    with pytest.raises(DmaRefused, match="BUS_MASTER_OFF"):
        WAYS[way](bus_of(function, made), BASE)
    assert made.messages == []


@pytest.mark.parametrize("way", WAYS)
def test_own_bar_over_memory_is_refused_in_a_mapping_that_is_used_whole(
    function: Bare, way: str
) -> None:
    function.config.write(Header.BAR0, BASE.to_bytes(4, "little"))
    with pytest.raises(DmaRefused, match="OWN_BAR"):
        WAYS[way](bus_of(function, MappedClient()), BASE)


@pytest.mark.parametrize("client", [FakeClient, MappedClient])
def test_memory_is_reached(function: Bare, client: type[FakeClient]) -> None:
    bus = bus_of(function, client())
    bus.write(BASE + 4, b"data")
    assert bus.read(BASE + 4, 4) == b"data"
    bus.write_list([(BASE, b"one"), (BASE + 64, b"two")])
    assert bus.read_list([(BASE, 3), (BASE + 64, 3)]) == [b"one", b"two"]
    assert function.refused == []


def test_a_refusal_for_a_message_keeps_no_memory_of_the_client() -> None:
    """It would hold the client's files open until Python's collector comes."""

    class Slow(FakeClient):
        def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
            if address >= 1 << 40:
                raise NoDescriptor(address)
            return super().memory(address, length, write=write)

    function = Bare()
    function.set_command(Command.BUS_MASTER)
    bus = Bus(function, Fabric(), uncaught=lambda _: None)
    bus.client = Slow()
    gc.collect()
    gc.disable()
    try:
        bus.read_list_async([(BASE, 4), (1 << 40, 4)], lambda _: None)
        bus.queue.go_on()
        bus.cancel()
        kept = [each for each in gc.get_objects() if isinstance(each, DirectAccess)]
    finally:
        gc.enable()
    assert not kept
