# SPDX-License-Identifier: Apache-2.0
"""Several functions in one device: their declaration, and what they are to each other."""

from __future__ import annotations

from typing import Any

import pytest

from dma_rehearsal.device.endpoints import (
    DmaRefused,
    Endpoint,
    Identity,
    MemoryBar,
    MultiFunction,
    Trace,
)
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.acs import AccessControlServices, Acs
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.vfio_user.turn import Turn
from tests.unit.device.fakes import FakeClient

BARS = {0: 0xE000_0000, 2: 0xE010_0000}


class Port(Endpoint):
    name = "port"
    identity = Identity(vendor_id=0x1234, device_id=0x0001, class_code=0x020000)
    bars = {0: MemoryBar(0x1000)}  # noqa: RUF012


class Engine(Endpoint):
    name = "engine"
    identity = Identity(vendor_id=0x1234, device_id=0x0002, class_code=0x120000)
    bars = {0: MemoryBar(0x1000)}  # noqa: RUF012


class Card(MultiFunction):
    functions = {0: Port, 2: Engine}  # noqa: RUF012


class NoTrace(Port):
    def __init__(self) -> None:
        super().__init__()


def test_function_that_takes_no_trace() -> None:
    class Wrong(MultiFunction):
        functions = (Port, NoTrace)

    with pytest.raises(TypeError, match=r"function 1, NoTrace, cannot be made with \(trace\): .*"):
        Wrong()

    class Right(Wrong):
        def make(self, number: int, kind: type[Endpoint]) -> Endpoint:
            """Make one without the trace."""
            return kind() if number else super().make(number, kind)

    assert len(Right().endpoints) == 2


def started(card: MultiFunction, *, behind_iommu: bool = False) -> None:
    for number, each in card.endpoints.items():
        each.bus.behind_iommu = behind_iommu
        each.attach(FakeClient())
        each.region_write(7, Header.BAR0, BARS[number].to_bytes(4, "little"))
        each.region_write(7, Header.COMMAND, b"\x06\x00")


def test_functions_have_their_numbers_and_find_each_other() -> None:
    card = Card()
    port, engine = card.endpoints[0], card.endpoints[2]
    assert (type(port), type(engine)) == (Port, Engine)
    assert [each.function_number for each in (port, engine)] == [0, 2]
    assert port.siblings == {2: engine}
    assert engine.siblings == {0: port}
    assert port.card is engine.card is card
    assert Port().siblings == {}
    assert Port().card is None


@pytest.mark.parametrize(("kind", "several"), [(Card, True), (None, False)])
def test_header_type_says_that_there_are_several(kind: Any, several: bool) -> None:
    class Lone(MultiFunction):
        functions = (Port,)

    for each in (kind or Lone)().endpoints.values():
        assert each.config.read(Header.HEADER_TYPE, 1)[0] >> 7 == several
        each.device_reset()
        assert each.config.read(Header.HEADER_TYPE, 1)[0] >> 7 == several


def test_two_functions_of_one_class_are_told_apart() -> None:
    class Dual(MultiFunction):
        functions = (Port, Port, Engine)

    assert [each.name for each in Dual().endpoints.values()] == ["port.0", "port.1", "engine"]


def test_a_card_has_members_of_its_own_and_may_make_its_functions() -> None:
    class Speedy(Port):
        def __init__(self, trace: Trace, rate: int) -> None:
            super().__init__(trace)
            self.rate = rate

    class Rated(MultiFunction):
        functions = (Speedy, Speedy)
        shared = 0

        def make(self, number: int, kind: type[Endpoint]) -> Endpoint:
            assert kind is Speedy
            return Speedy(self.trace, rate=10 * number)

    card = Rated()
    first, second = card.endpoints.values()
    assert [each.rate for each in (first, second) if isinstance(each, Speedy)] == [0, 10]
    with first.card.lock:
        first.card.shared += 1
    assert second.card.shared == 1


@pytest.mark.parametrize("behind_iommu", [False, True])
def test_siblings_reach_memory_bars_of_each_other(behind_iommu: bool) -> None:
    card = Card()
    started(card, behind_iommu=behind_iommu)
    port, engine = card.endpoints[0], card.endpoints[2]
    port.bus.write(BARS[2] + 0x10, b"from the port")
    assert engine.memory(0)[0x10:0x1D] == b"from the port"
    assert engine.bus.read(BARS[0], 4) == bytes(4)
    with pytest.raises(DmaRefused) as refused:
        port.bus.read(BARS[0], 4)
    assert refused.value.reason is DmaReason.OWN_BAR


@pytest.mark.parametrize("behind_iommu", [False, True])
@pytest.mark.parametrize("control", [0, Acs.REQUEST_REDIRECT, Acs.COMPLETION_REDIRECT])
def test_a_redirected_request_goes_to_the_iommu(behind_iommu: bool, control: int) -> None:
    """Without an IOMMU it comes back from the root complex."""
    card = Card()
    port = card.endpoints[0]
    port.add_capability(AccessControlServices())
    started(card, behind_iommu=behind_iommu)
    start = port.config.start_of(AccessControlServices)
    assert start is not None
    port.region_write(7, start + 6, control.to_bytes(2, "little"))
    if behind_iommu and control == Acs.REQUEST_REDIRECT:
        with pytest.raises(DmaRefused) as refused:
            port.bus.read(BARS[2], 4)
        assert refused.value.reason is DmaReason.UNMAPPED
    else:
        assert port.bus.read(BARS[2], 4) == bytes(4)


@pytest.mark.parametrize(("behind_iommu", "reached"), [(False, True), (True, False)])
def test_an_iommu_is_between_two_devices(behind_iommu: bool, reached: bool) -> None:
    card, other, fabric = Card(), Engine(), Fabric()
    for each in (*card.endpoints.values(), other):
        each.bus.fabric = fabric
    started(card, behind_iommu=behind_iommu)
    other.bus.behind_iommu = behind_iommu
    other.attach(FakeClient())
    other.region_write(7, Header.BAR0, (0xE020_0000).to_bytes(4, "little"))
    other.region_write(7, Header.COMMAND, b"\x06\x00")
    if reached:
        other.bus.write(BARS[0], b"x")
        assert card.endpoints[0].memory(0)[0] == ord("x")
    else:
        with pytest.raises(DmaRefused) as refused:
            other.bus.write(BARS[0], b"x")
        assert refused.value.reason is DmaReason.UNMAPPED


def test_a_function_that_joins_another_fabric_leaves_its_own() -> None:
    card = Card()
    started(card)
    port, engine = card.endpoints[0], card.endpoints[2]
    engine.bus.fabric = Fabric()
    with pytest.raises(DmaRefused):
        port.bus.read(BARS[2], 4)


def test_a_reset_of_one_function_leaves_the_others() -> None:
    card = Card()
    started(card)
    port, engine = card.endpoints[0], card.endpoints[2]
    port.device_reset()
    assert not port.config.bus_master
    assert engine.config.bus_master
    with pytest.raises(DmaRefused):
        engine.bus.read(BARS[0], 4)


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ((), "Wrong.functions has no function 0"),
        ({1: Port}, "has no function 0, without which .* give one of them the number 0"),
        ((Port,) * 9, "has 9 functions, and a slot has 8; .*ENDPOINT=module:Class,module:Class"),
        ({0: Port, 8: Port}, "8 is not the number of a function; use 0 to 7"),
        ({0: Port, "1": Port}, "'1' is not the number"),
        ({0: Port, True: Port}, "True is not the number"),
        ((Port, Card), "function 1 is .*Card.*, not an Endpoint class"),
        ((Port()), "is <.*Port object"),
        ((Port, 3), "function 1 is 3, not an Endpoint class"),
        (Port, r"list endpoint classes: functions = \(Nic, Dma\)"),
    ],
)
def test_what_no_device_can_have_is_refused_at_its_declaration(functions: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        type("Wrong", (MultiFunction,), {"functions": functions})


def test_a_device_without_a_declaration_cannot_be_made() -> None:
    class Base(MultiFunction):
        """For subclasses, which declare functions."""

    with pytest.raises(ValueError, match=r"Base\.functions has no function 0"):
        Base()


def test_resets_on_and_on_wait_once_at_a_function_that_is_stopped() -> None:
    """A guest's reset register must not fill its queue, nor fail for it."""
    card = Card()
    port, engine = card.endpoints[0], card.endpoints[2]
    engine.timers.hold()
    for _ in range(3):
        card.reset()
        port.posted.run(Turn())
        engine.posted.run(Turn())
    assert (port.posted.waiting, engine.posted.waiting) == (0, 1)
    engine.post(lambda: None)
    card.reset()
    assert engine.posted.waiting == 3, "what was posted meanwhile is forgotten as well"
    engine.timers.release()
    engine.posted.run(Turn())
    assert engine.posted.waiting == 0
