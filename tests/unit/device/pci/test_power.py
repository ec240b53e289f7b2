# SPDX-License-Identifier: Apache-2.0
"""D3hot: only configuration space answers, and nothing leaves the function (PCI PM 1.2, 5.4)."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason, Ext, Reg
from dma_rehearsal.device.pci.msix import MsiX
from tests.unit.device.fakes import BASE, FakeClient, answer, dma, read32, write32
from tests.unit.device.pci.config_words import POWER, word

CONTROL = POWER + 4
D0, D1, D2, D3HOT = range(4)


def go(exerciser: Exerciser, state: int) -> int:
    """Ask for a power state; return the one that PMCSR has then."""
    exerciser.region_write(7, CONTROL, bytes((state,)))
    return word(exerciser.config, CONTROL) & 3


def test_bars_do_not_answer(exerciser: Exerciser) -> None:
    write32(exerciser, 0, Reg.DMA_LEN, 123)
    exerciser.region_write(1, 0, b"kept")
    assert go(exerciser, D3HOT) == D3HOT
    assert exerciser.region_read(0, Reg.DMA_LEN, 4) == exerciser.region_read(1, 0, 4) == b"\xff" * 4
    write32(exerciser, 0, Reg.DMA_LEN, 456)
    exerciser.region_write(1, 0, b"lost")
    assert exerciser.region_read(7, 0, 2) == b"\xb5\x13"
    assert go(exerciser, D0) == D0
    assert read32(exerciser, 0, Reg.DMA_LEN) == 123, "No Soft Reset: what was there is there"
    assert exerciser.region_read(1, 0, 4) == b"kept"


def test_no_register_acts(exerciser: Exerciser) -> None:
    write32(exerciser, 0, Reg.DMA_BUS_ADDR_LO, BASE)
    write32(exerciser, 0, Reg.DMA_LEN, 4)
    go(exerciser, D3HOT)
    write32(exerciser, 0, Reg.DMACTL, 1)
    go(exerciser, D0)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0


def test_nothing_is_sent(exerciser: Exerciser, client: FakeClient) -> None:
    go(exerciser, D3HOT)
    assert not exerciser.msix(0)
    exerciser.intx(True)
    assert client.interrupts == []
    assert not exerciser.config.bus_master
    msix = exerciser.config.start_of(MsiX)
    assert msix is not None
    exerciser.region_write(7, msix + 2, b"\0\0")
    go(exerciser, D0)
    assert client.interrupts == [(0, 0)], "the line is still up"
    exerciser.region_write(7, msix + 2, b"\0\x80")
    assert exerciser.msix(0)


def test_a_dma_in_flight_ends(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.HOLD, 1)
    dma(exerciser, BASE, 100, write=True)
    write32(exerciser, 3, Ext.STEP, 40)
    go(exerciser, D3HOT)
    go(exerciser, D0)
    assert read32(exerciser, 0, Reg.DMACTL) & 1 == 0
    assert read32(exerciser, 3, Ext.ABORT_REASON) == DmaReason.BUS_MASTER_OFF
    assert read32(exerciser, 3, Ext.ABORT_MOVED) == 40


@pytest.mark.parametrize("before", [D0, D3HOT])
@pytest.mark.parametrize("asked", [D1, D2])
def test_states_that_it_does_not_have_are_discarded(
    exerciser: Exerciser, before: int, asked: int
) -> None:
    go(exerciser, before)
    assert go(exerciser, asked) == before
    assert exerciser.config.asleep == (before == D3HOT)


def test_reset_wakes(exerciser: Exerciser) -> None:
    go(exerciser, D3HOT)
    exerciser.device_reset()
    answer(exerciser)
    assert word(exerciser.config, CONTROL) & 3 == D0
    assert read32(exerciser, 0, Reg.DMA_LEN) == 0
