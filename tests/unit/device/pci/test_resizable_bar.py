# SPDX-License-Identifier: Apache-2.0
"""Resizable BAR: what software is offered, and what its choice changes."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints import (
    Bars,
    Capability,
    DmaRefused,
    Endpoint,
    Fabric,
    Identity,
    MemoryBar,
    MixedBar,
    MsixBars,
    ResizableBar,
    SharedBar,
)
from dma_rehearsal.device.endpoints.bars import Bar
from tests.unit.device.fakes import FakeClient
from tests.unit.device.pci.capability_decoder import Decoder

MIB = 1 << 20
BAR0, BAR2 = 0x10, 0x18
CONTROL_0, CONTROL_2 = 0x108, 0x110


class Sized(Endpoint):
    identity = Identity(0x1234, 1, 0xFF0000)
    bars: ClassVar[Bars] = {
        0: MemoryBar(8 * MIB),
        2: MemoryBar(4 << 30, bits=64, prefetchable=True),
    }
    capabilities: ClassVar[tuple[Capability, ...]] = (
        ResizableBar({2: (MIB, 4 << 30), 0: (2 * MIB, MIB, 8 * MIB)}),
    )


def sizes(decoder: Decoder, place: int) -> list[int]:
    """Return the sizes that a capability register offers, in MiB."""
    return [1 << bit - 4 for bit in range(4, 32) if decoder.dword(place) >> bit & 1]


def probed(decoder: Decoder, bar: int) -> int:
    """Return a BAR's size as software finds it, and leave the BAR as it was."""
    before = decoder.dword(bar)
    decoder.write(bar, 0xFFFF_FFFF, 4)
    found = decoder.dword(bar) & ~0xF
    decoder.write(bar, before, 4)
    return -found & 0xFFFF_FFFF


def test_at_reset() -> None:
    endpoint = Sized()
    decoder = Decoder(endpoint)
    assert decoder.extended() == {0x15: (0x100, 1)}
    assert sizes(decoder, 0x104) == [1, 2, 8]
    assert sizes(decoder, 0x10C) == [1, 4096]
    assert decoder.dword(CONTROL_0) == 0 | 2 << 5 | 3 << 8
    assert decoder.dword(CONTROL_2) == 2 | 12 << 8
    assert probed(decoder, BAR0) == endpoint.region_size(0) == 8 * MIB


@pytest.mark.parametrize("reset", ["flr", "device reset"])
def test_a_choice_is_in_force_until_a_reset(reset: str) -> None:
    endpoint = Sized()
    decoder = Decoder(endpoint)
    decoder.write(CONTROL_0, 1 << 8)
    assert probed(decoder, BAR0) == endpoint.region_size(0) == 2 * MIB
    assert decoder.dword(CONTROL_0) == 2 << 5 | 1 << 8
    decoder.write(BAR0, 0x8020_0000, 4)
    decoder.write(4, 2)
    assert endpoint.config.bar_address(0) == 0x8020_0000
    assert not endpoint.config.overlaps_bar(0x8040_0000, 4)
    if reset == "flr":
        decoder.write(decoder.standard()[0x10] + 8, 1 << 15)
    else:
        endpoint.device_reset()
    assert decoder.dword(CONTROL_0) == 2 << 5 | 3 << 8
    assert probed(decoder, BAR0) == endpoint.region_size(0) == 8 * MIB
    assert not decoder.dword(BAR0) & (8 * MIB - 1)


def test_a_smaller_bar_has_more_bits_of_an_address() -> None:
    decoder = Decoder(Sized())
    decoder.write(BAR2, 0xFFFF_FFFF, 4)
    assert decoder.dword(BAR2) == 0xC, "of 4 GiB, all of the lower half"
    decoder.write(CONTROL_2, 0)
    decoder.write(BAR2, 0xFFFF_FFFF, 4)
    assert decoder.dword(BAR2) == 0xFFF0_000C
    decoder.write(CONTROL_2, 12 << 8)
    assert decoder.dword(BAR2) == 0xC


@pytest.mark.parametrize(("choice", "inside"), [(3, True), (0, False)])
def test_a_peer_reaches_no_byte_behind_a_smaller_bar(choice: int, inside: bool) -> None:
    """The memory behind the BAR keeps its size; its end no longer answers."""
    fabric = Fabric()
    endpoint, peer = Sized(fabric=fabric), Sized(fabric=fabric)
    decoder = Decoder(endpoint)
    decoder.write(CONTROL_0, choice << 8)
    decoder.write(BAR0, 0x8000_0000, 4)
    decoder.write(4, 2)
    peer.attach(FakeClient())
    Decoder(peer).write(4, 4)
    assert peer.bus.read(0x8000_0000 + MIB - 8, 8) == bytes(8)
    across = 0x8000_0000 + MIB - 4
    if inside:
        assert peer.bus.read(across, 8) == bytes(8)
    else:
        with pytest.raises(DmaRefused):
            peer.bus.read(across, 8)


@given(st.lists(st.integers(0, 63), min_size=1, max_size=6))
def test_only_sizes_that_are_offered_are_taken(choices: list[int]) -> None:
    endpoint = Sized()
    decoder, expected = Decoder(endpoint), 3
    for choice in choices:
        decoder.write(CONTROL_0, choice << 8)
        expected = choice if choice in (0, 1, 3) else expected
        assert decoder.dword(CONTROL_0) >> 8 & 0x3F == expected
        assert endpoint.region_size(0) == probed(decoder, BAR0) == MIB << expected


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "name a BAR"),
        ({0: ()}, "BAR0 of 0x0 bytes; give powers of two"),
        ({0: (3 * MIB,)}, "BAR0 of 0x300000 bytes"),
        ({0: (MIB // 2,)}, "BAR0 of 0x80000 bytes"),
    ],
)
def test_sizes_that_cannot_be(declared: dict[int, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ResizableBar(declared)


@pytest.mark.parametrize("bar", [0, 3])
def test_the_bar_is_declared_with_the_largest_size(bar: int) -> None:
    with pytest.raises(ValueError, match=f"Wrong: ResizableBar lets BAR{bar} have up to 0x200000"):

        class Wrong(Endpoint):
            identity = Identity(1, 2, 3)
            bars: ClassVar[Bars] = {0: MemoryBar(MIB)}
            capabilities: ClassVar[tuple[Capability, ...]] = (ResizableBar({bar: (MIB, 2 * MIB)}),)


@pytest.mark.parametrize(
    ("bar", "msix", "message"),
    [
        (MemoryBar(4 * MIB), MsixBars(0, 0, 0x1000, MIB), "MSI-X's table at 0x100000 of BAR0"),
        (MemoryBar(4 * MIB), MsixBars(0, 0, MIB), "MSI-X's pending bits at 0x100000 of BAR0"),
        (
            SharedBar(4 * MIB, ((0, 0x1000), (MIB - 0x1000, 0x2000))),
            MsixBars(0, 0, 0x2000, 0x1000),
            "an area of the SharedBar at 0xff000 of BAR0 ends at 0x101000",
        ),
        (
            MixedBar(4 * MIB, {MIB: SharedBar(0x1000, ((0, 0x1000),))}),
            None,
            "an area of the SharedBar at 0x100000 of BAR0",
        ),
    ],
)
def test_the_smallest_size_leaves_what_clients_need(
    bar: Bar, msix: MsixBars | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"Wrong: {message}")) as mistake:

        class Wrong(Endpoint):
            identity = Identity(1, 2, 3)
            bars: ClassVar[Bars] = {0: bar}
            vectors = 4
            msix_bars: ClassVar[MsixBars | None] = msix
            capabilities: ClassVar[tuple[Capability, ...]] = (ResizableBar({0: (MIB, 4 * MIB)}),)

    remedy = "leave the BAR 0x100000 bytes; put it below, or offer BAR0 no size that cuts it off"
    assert remedy in str(mistake.value)

    class Right(Endpoint):
        identity = Identity(1, 2, 3)
        bars: ClassVar[Bars] = {0: bar}
        vectors = 4
        msix_bars: ClassVar[MsixBars | None] = msix
        capabilities: ClassVar[tuple[Capability, ...]] = (ResizableBar({0: (2 * MIB, 4 * MIB)}),)

    assert Right().config.bar_size(0) == 4 * MIB


def test_a_capability_that_the_constructor_adds_is_checked_too() -> None:
    class Adds(Endpoint):
        identity = Identity(1, 2, 3)
        bars: ClassVar[Bars] = {0: MemoryBar(4 * MIB)}
        vectors = 4
        msix_bars: ClassVar[MsixBars | None] = MsixBars(0, 0, MIB - 8)

        def __init__(self, smallest: int) -> None:
            super().__init__()
            self.add_capability(ResizableBar({0: (smallest, 4 * MIB)}))

    Adds(MIB)  # the pending bits are its last eight bytes
    Adds.msix_bars = MsixBars(0, 0, MIB)
    Adds(2 * MIB)
    with pytest.raises(ValueError, match="Adds: MSI-X's pending bits"):
        Adds(MIB)
