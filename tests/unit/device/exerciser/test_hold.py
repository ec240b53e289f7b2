# SPDX-License-Identifier: Apache-2.0
"""HOLD and STEP: a DMA in flight, and everything that can end it at any step."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaCtl, DmaReason, DmaStatus, Ext, Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import Unmapped
from tests.unit.device.fakes import BASE, SIZE, FakeClient, answer, dma, read32, record, write32

LENGTH, STEP = 1000, 300
DATA = bytes(index * 7 % 251 for index in range(LENGTH))


def begin(exerciser: Exerciser, *, write: bool = True) -> None:
    """Put a DMA of LENGTH bytes in flight."""
    write32(exerciser, 3, Ext.HOLD, 1)
    exerciser.region_write(1, 0, DATA)
    dma(exerciser, BASE, LENGTH, write=write)


def step(exerciser: Exerciser, length: int = STEP) -> None:
    write32(exerciser, 3, Ext.STEP, length)


def pending(exerciser: Exerciser) -> bool:
    """Whether DMACTL and Device Status say, with one voice, that a DMA is in flight."""
    busy = bool(read32(exerciser, 0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK)
    assert busy == bool(exerciser.config.word(0x4A) & 1 << 5)
    return busy


def test_off_by_default(exerciser: Exerciser) -> None:
    dma(exerciser, BASE, LENGTH, write=True)
    assert not pending(exerciser)
    assert read32(exerciser, 3, Ext.HELD_MOVED) == read32(exerciser, 3, Ext.HELD_LEFT) == 0


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_moves_as_told(exerciser: Exerciser, client: FakeClient, write: bool) -> None:
    client.ram[:LENGTH] = DATA[::-1]
    begin(exerciser, write=write)
    sent, target = (DATA, client.ram) if write else (DATA[::-1], exerciser.buffer)
    before = bytes(target[:LENGTH])
    for moved in (0, 300, 600, 900):
        assert pending(exerciser)
        assert read32(exerciser, 3, Ext.HELD_MOVED) == moved
        assert read32(exerciser, 3, Ext.HELD_LEFT) == LENGTH - moved
        assert target[:LENGTH] == sent[:moved] + before[moved:]
        assert read32(exerciser, 3, Ext.DMA_COUNT) == 0
        step(exerciser)
    assert not pending(exerciser)
    assert target[:LENGTH] == sent
    assert read32(exerciser, 3, Ext.HELD_MOVED) == read32(exerciser, 3, Ext.HELD_LEFT) == 0
    found = record(exerciser, 1)
    assert (found["status"], found["moved"], found["crc32"]) == (0, LENGTH, zlib.crc32(sent))
    step(exerciser)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 1
    assert read32(exerciser, 3, Ext.ABORT_REASON) == 0


def test_request_is_latched_and_not_triggered_twice(
    exerciser: Exerciser, client: FakeClient
) -> None:
    begin(exerciser)
    for register in (Reg.DMA_BUS_ADDR_LO, Reg.DMA_LEN, Reg.DMA_OFFSET):
        write32(exerciser, 0, register, 0xFFFF_FFFF)
    write32(exerciser, 0, Reg.DMACTL, DmaCtl.TRIGGER)
    step(exerciser, 0)
    step(exerciser, 0xFFFF_FFFF)
    assert client.ram[:LENGTH] == DATA
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 1


def test_clearing_hold_lets_the_rest_go(exerciser: Exerciser, client: FakeClient) -> None:
    begin(exerciser)
    step(exerciser)
    write32(exerciser, 3, Ext.HOLD, 0)
    assert not pending(exerciser)
    assert client.ram[:LENGTH] == DATA


def test_what_is_refused_is_never_in_flight(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.HOLD, 1)
    assert dma(exerciser, BASE, 1 << 31, write=True)["reason"] == DmaReason.BUFFER_RANGE
    assert not pending(exerciser)


def flr(exerciser: Exerciser, _: FakeClient) -> None:
    exerciser.region_write(7, 0x48, struct.pack("<H", 1 << 15))
    answer(exerciser)


def reset(exerciser: Exerciser, _: FakeClient) -> None:
    exerciser.device_reset()
    answer(exerciser)


def bus_master_off(exerciser: Exerciser, _: FakeClient) -> None:
    exerciser.region_write(7, 4, b"\2\0")


def unmap(exerciser: Exerciser, client: FakeClient) -> None:
    def memory(address: int, length: int, *, write: bool) -> list[memoryview]:  # noqa: ARG001
        raise Unmapped(address)

    client.memory = memory  # type: ignore[method-assign]
    step(exerciser)


def client_gone(exerciser: Exerciser, _: FakeClient) -> None:
    exerciser.detach()


ENDS: dict[Callable[[Exerciser, FakeClient], None], DmaReason] = {
    flr: DmaReason.RESET,
    reset: DmaReason.RESET,
    bus_master_off: DmaReason.BUS_MASTER_OFF,
    unmap: DmaReason.UNMAPPED,
    client_gone: DmaReason.CLIENT_GONE,
}


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_it_at_any_step(
    exerciser: Exerciser,
    client: FakeClient,
    end: Callable[[Exerciser, FakeClient], None],
    steps: int,
) -> None:
    begin(exerciser)
    for _ in range(steps):
        step(exerciser)
    end(exerciser, client)
    assert not pending(exerciser)
    assert read32(exerciser, 3, Ext.ABORT_REASON) == ENDS[end]
    assert read32(exerciser, 3, Ext.ABORT_MOVED) == steps * STEP
    step(exerciser)
    assert client.ram[: LENGTH + 1] == DATA[: steps * STEP].ljust(LENGTH + 1, b"\0")
    if end in (flr, reset):
        assert read32(exerciser, 3, Ext.DMA_COUNT) == 0
        assert read32(exerciser, 3, Ext.HOLD) == 0
    else:
        found = record(exerciser, 1)
        assert (found["status"], found["reason"]) == (DmaStatus.INTERNAL, ENDS[end])
        assert found["moved"] == steps * STEP


@given(st.lists(st.integers(0, 0xFFFF_FFFF) | st.integers(0, 64), max_size=30))
def test_any_steps_move_each_byte_once(steps: list[int]) -> None:
    exerciser, client = Exerciser(Trace()), FakeClient()
    exerciser.attach(client)
    exerciser.region_write(7, 4, b"\x06\x00")
    begin(exerciser)
    for length in steps:
        step(exerciser, length)
    moved = min(sum(steps), LENGTH)
    assert client.ram == DATA[:moved].ljust(SIZE, b"\0")
