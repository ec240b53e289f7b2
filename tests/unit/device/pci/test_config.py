# SPDX-License-Identifier: Apache-2.0
"""Configuration space: golden bytes, write masks, BAR sizing, the capability list, resets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.pci.config import ConfigSpace, Identity
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.pci.pcie import Offset
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import FakeClient, answer, write32
from tests.unit.device.pci.config_words import MSIX, PCIE, POWER, word

HEADER = """
b5 13 01 ed 00 00 11 00 00 00 00 ed 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 b5 13 00 00
00 00 00 00 40 00 00 00 00 00 00 00 00 01 00 00
"""
COMMAND, STATUS, BAR0 = 4, 6, 0x10


@pytest.fixture
def exerciser(client: FakeClient) -> Exerciser:
    """An exerciser whose driver uses INTx: MSI-X is not enabled."""
    made = Exerciser(Trace())
    made.attach(client)
    made.region_write(7, COMMAND, b"\x06\x00")
    return made


def test_header_of_the_exerciser() -> None:
    assert Exerciser(Trace()).region_read(7, 0, 64) == bytes.fromhex(HEADER)


def test_platform_is_another_device() -> None:
    found = Platform(Trace()).region_read(7, 0, 64)
    assert found[:4] != bytes.fromhex(HEADER)[:4]
    assert struct.unpack_from("<HH", found) == (0x1234, 0xDA7A)


def test_capability_list(exerciser: Exerciser) -> None:
    config, seen, pointer = exerciser.config, [], exerciser.config.read(0x34, 1)[0]
    while pointer:
        identity, following = config.read(pointer, 2)
        seen.append((pointer, identity))
        pointer = following
        assert len(seen) < 10
    assert seen == [(PCIE, 0x10), (POWER, 0x01), (MSIX, 0x11)]


def test_pci_express(exerciser: Exerciser) -> None:
    config = exerciser.config
    capabilities = struct.unpack("<I", config.read(PCIE + 4, 4))[0]
    assert word(config, PCIE + 2) & 0xF == 2, "version"
    assert word(config, PCIE + 2) >> 4 & 0xF == 0, "a PCI Express endpoint"
    assert capabilities & 1 << 28, "FLR"
    assert word(config, PCIE + 8) & 1 << 11, "Enable No Snoop is 1 at reset"


def test_msix(exerciser: Exerciser) -> None:
    control, table, pending = struct.unpack("<HII", exerciser.config.read(MSIX + 2, 10))
    assert control & 0x7FF == 15, "sixteen vectors"
    assert (table, pending) == (2, 4), "BAR2 and BAR4, from their starts"


def test_power_state_is_writable(exerciser: Exerciser) -> None:
    """QEMU believes in D3hot and unmaps the BARs when PMCSR cannot be written."""
    exerciser.region_write(7, POWER + 4, b"\x03\x00")
    assert word(exerciser.config, POWER + 4) & 3 == 3
    exerciser.region_write(7, POWER + 4, b"\x00\x00")
    assert word(exerciser.config, POWER + 4) & 3 == 0


@pytest.mark.parametrize(
    ("bar", "size"), [(0, 0x1000), (1, 0x10000), (2, 0x1000), (3, 0x1000), (4, 0x1000), (5, 0)]
)
def test_bar_sizing(exerciser: Exerciser, bar: int, size: int) -> None:
    write32(exerciser, 7, 0x10 + 4 * bar, 0xFFFF_FFFF)
    mask = struct.unpack("<I", exerciser.region_read(7, 0x10 + 4 * bar, 4))[0]
    assert mask == (-size & 0xFFFF_FFFF if size else 0)
    assert exerciser.region_size(bar) == size


def test_identity_cannot_be_written(exerciser: Exerciser) -> None:
    before = exerciser.region_read(7, 0, 4)
    exerciser.region_write(7, 0, b"\xff" * 4)
    exerciser.region_write(7, 0x2C, b"\xff" * 4)
    assert exerciser.region_read(7, 0, 4) == before
    assert exerciser.region_read(7, 0x2C, 4) == b"\xb5\x13\x00\x00"


def test_flr_resets_and_clears_itself(exerciser: Exerciser) -> None:
    write32(exerciser, 0, 0x18, 99)
    control = word(exerciser.config, PCIE + 8)
    exerciser.region_write(7, PCIE + 8, struct.pack("<H", control & ~(1 << 11)))
    assert not exerciser.no_snoop_enabled
    exerciser.region_write(7, PCIE + 8, struct.pack("<H", 1 << 15))
    assert word(exerciser.config, COMMAND) == 0
    answer(exerciser)
    assert exerciser.region_read(0, 0x18, 4) == bytes(4)
    assert exerciser.no_snoop_enabled, "Device Control is at its reset value"
    assert not word(exerciser.config, PCIE + 8) & 1 << 15


def test_flr_leaves_the_bars_and_a_reset_by_the_client_does_not(exerciser: Exerciser) -> None:
    """After an FLR QEMU shows the guest the old BARs; the guest restores nothing that is there."""
    place = 0xFEB00000
    exerciser.region_write(7, BAR0, struct.pack("<I", place))
    exerciser.region_write(7, PCIE + 8, struct.pack("<H", 1 << 15))
    assert exerciser.config.bar_address(0) is None, "memory space is off"
    set_command(exerciser, 1 << 1)
    assert exerciser.config.bar_address(0) == place
    exerciser.device_reset()
    set_command(exerciser, 1 << 1)
    assert exerciser.config.bar_address(0) is None


def test_flr_leaves_the_settings_of_the_link_and_a_reset_by_the_client_does_not(
    exerciser: Exerciser,
) -> None:
    """PCI Express Base 5.0, 6.6.2."""
    payload, read_request = 1 << 5, 3 << 12
    control, link = PCIE + Offset.DEVICE_CONTROL, PCIE + Offset.LINK_CONTROL
    at_reset = word(exerciser.config, control)
    exerciser.region_write(7, link, struct.pack("<H", 0x0FC3))
    exerciser.region_write(7, control, struct.pack("<H", payload | read_request | 1 << 15))
    assert word(exerciser.config, control) == at_reset | payload
    assert word(exerciser.config, link) == 0x03C3, "interrupts of the link are off"
    exerciser.device_reset()
    assert word(exerciser.config, control) == at_reset
    assert word(exerciser.config, link) == 0


def set_command(exerciser: Exerciser, value: int) -> None:
    exerciser.region_write(7, COMMAND, struct.pack("<H", value))


def interrupt_status(exerciser: Exerciser) -> bool:
    return bool(word(exerciser.config, STATUS) & 1 << 3)


def test_intx_status_and_disable(exerciser: Exerciser, client: FakeClient) -> None:
    write32(exerciser, 0, 0x04, 1)
    assert interrupt_status(exerciser)
    assert client.interrupts == [(0, 0)]
    set_command(exerciser, 1 << 10)
    exerciser.end_of_interrupt()
    assert client.interrupts == [(0, 0)]
    assert interrupt_status(exerciser), "Interrupt Disable does not hide it"
    set_command(exerciser, 0)
    assert client.interrupts == [(0, 0), (0, 0)], "it rises again when it is allowed again"
    exerciser.device_reset()
    assert not interrupt_status(exerciser)


def test_intx_has_one_signal_for_one_end_of_interrupt(
    exerciser: Exerciser, client: FakeClient
) -> None:
    """A second signal before the end of the first would have no end of its own."""
    write32(exerciser, 0, 0x04, 1)
    set_command(exerciser, 1 << 10)
    set_command(exerciser, 0)
    write32(exerciser, 0, 0x04, 0)
    write32(exerciser, 0, 0x04, 1)
    assert client.interrupts == [(0, 0)]
    exerciser.end_of_interrupt()
    assert client.interrupts == [(0, 0), (0, 0)]


@pytest.mark.parametrize("flr", [False, True])
def test_intx_status_outlasts_a_line_that_the_client_still_holds_up(
    exerciser: Exerciser, flr: bool
) -> None:
    """Else the guest's handler finds nobody to blame, and the line storms."""
    write32(exerciser, 0, 0x04, 1)
    if flr:
        exerciser.region_write(7, PCIE + 8, struct.pack("<H", 1 << 15))
    else:
        write32(exerciser, 0, 0x04, 0)
    assert interrupt_status(exerciser)
    exerciser.end_of_interrupt()
    assert not interrupt_status(exerciser)


def test_intx_waits_for_a_client_that_listens(exerciser: Exerciser, client: FakeClient) -> None:
    client.listens = False
    write32(exerciser, 0, 0x04, 1)
    assert interrupt_status(exerciser)
    write32(exerciser, 0, 0x04, 0)
    assert not interrupt_status(exerciser), "nobody was told, so nobody holds it up"
    write32(exerciser, 0, 0x04, 1)
    client.listens = True
    exerciser.end_of_interrupt()
    assert client.interrupts == [(0, 0)]


def test_intx_is_not_used_while_msix_is(exerciser: Exerciser, client: FakeClient) -> None:
    exerciser.region_write(7, MSIX + 2, struct.pack("<H", 1 << 15))
    write32(exerciser, 0, 0x04, 1)
    assert client.interrupts == []
    assert interrupt_status(exerciser)
    exerciser.region_write(7, MSIX + 2, struct.pack("<H", 0))
    assert client.interrupts == [(0, 0)]


@pytest.mark.parametrize("vectors", [0, 2049])
def test_vectors_out_of_range(vectors: int) -> None:
    with pytest.raises(ValueError, match=str(vectors)):
        Exerciser(Trace(), vectors=vectors)


@pytest.mark.parametrize("vectors", [1, 64, 65, 2048])
def test_table_and_pending_bits_fit_their_bars(vectors: int) -> None:
    exerciser = Exerciser(Trace(), vectors=vectors)
    assert exerciser.region_size(2) >= vectors * 16
    assert exerciser.region_size(4) * 8 >= vectors


@pytest.mark.parametrize("size", [0, 100, 2048, 4097, 1 << 25])
def test_buffer_size_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Exerciser(Trace(), buffer_size=size)


def test_capability_list_that_is_too_long() -> None:
    config = ConfigSpace(Identity(1, 2, 3), {})
    for _ in range(16):
        config.add(MsiX(1, 0, 0))
    with pytest.raises(ValueError, match="longer"):
        config.add(MsiX(1, 0, 0))


@given(st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=8))))
def test_any_writes_keep_identity_and_capabilities(writes: list[tuple[int, bytes]]) -> None:
    """After any writes software finds the same function with the same capabilities."""
    exerciser = Exerciser(Trace())
    fixed = [(0, 4), (8, 4), (0x0D, 3), (0x2C, 8), (0x3D, 1)]
    fixed += [(PCIE, 8), (POWER, 2), (MSIX, 2), (MSIX + 4, 8)]
    before = [exerciser.region_read(7, *place) for place in fixed]
    for offset, data in writes:
        exerciser.region_write(7, offset, data[: 4096 - offset])
    assert [exerciser.region_read(7, *place) for place in fixed] == before
