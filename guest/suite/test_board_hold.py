# SPDX-License-Identifier: Apache-2.0
"""HOLD of the board: a device's action waits until software lets it go, and then it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import DmaCtl, Reg
from dma_rehearsal.guest.drivers import exerciser
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.platform.board_unit import BoardUnit
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
)

LENGTH = 4096
PROMISE = "held device"


@pytest.fixture
def board(platform: PlatformDevice) -> Iterator[BoardUnit]:
    """A board that holds the actions of its functions, as long as the test lasts."""
    unit = platform.board
    unit.holding = True
    yield unit
    unit.holding = False
    await_release(unit)


def await_release(board: BoardUnit) -> None:
    """Wait until what was let go is done."""
    patience = exerciser.DMA_TIMEOUT
    deadline = time.monotonic() + patience
    while board.held:
        if time.monotonic() > deadline:
            raise CheckFailed(f"{board.held} actions wait {patience} s after they were let go")


def begin(device: Exerciser, memory: IOBufferMemoryDescriptor, length: int) -> None:
    """Have the device write to memory, and do not wait for it."""
    device.start_dma(memory.getPhysicalAddress(), length, write_memory=True)


def content(memory: IOBufferMemoryDescriptor) -> bytes:
    with memory.view() as view:
        return bytes(view)


@pytest.mark.promise(PROMISE)
def test_action_waits_until_it_is_released(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, board: BoardUnit
) -> None:
    device, size, expired = bench.device, bench.one_dma(LENGTH), board.expired
    memory, inside = buffer(kIODirectionInOut, size, LENGTH), data.take(size)
    bench.load(inside)
    before, count = content(memory), device.dma_count
    begin(device, memory, size)
    busy = bool(device.read_register(Reg.DMACTL) & DmaCtl.TRIGGER_MASK)  # behind posted writes
    held, early = board.held, difference(before, content(memory))
    board.release()
    await_release(board)
    wrong = difference(inside, content(memory))
    record = device.end_dma(count)
    attest(
        PROMISE,
        asked=f"{size} bytes, written when the action is released",
        attested=f"{held} waited, DMACTL busy {busy}; then {record.moved} bytes",
        kept=(held, busy) == (1, True) and not early and not wrong and board.expired == expired,
        reason=f"before the release: {early}" if early else wrong,
    )


@pytest.mark.promise(PROMISE)
def test_next_action_lets_the_first_go(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, board: BoardUnit
) -> None:
    device, size = bench.device, bench.one_dma(LENGTH)
    first, second = (buffer(kIODirectionInOut, size, LENGTH) for _ in range(2))
    inside = data.take(size)
    bench.load(inside)
    before, count = content(second), device.dma_count
    begin(device, first, size)
    begin(device, second, size)
    device.read_register(Reg.DMACTL)  # behind posted writes
    held = board.held
    wrong = difference(inside, content(first)) or difference(before, content(second))
    board.release()
    await_release(board)
    wrong = wrong or difference(inside, content(second))
    done = device.dma_count - count
    attest(
        PROMISE,
        asked="two DMAs, one after the other",
        attested=f"{done} done, {held} waited until the release",
        kept=(done, held) == (2, 1) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise(PROMISE)
def test_driver_that_polls_is_served(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, board: BoardUnit
) -> None:
    device, size, expired = bench.device, bench.one_dma(LENGTH), board.expired
    memory, inside = buffer(kIODirectionInOut, size, LENGTH), data.take(size)
    bench.load(inside)
    record = device.dma(memory.getPhysicalAddress(), size, write_memory=True)
    wrong = difference(inside, content(memory))
    attest(
        PROMISE,
        asked="a driver that reads DMACTL until the DMA is done",
        attested=f"{record.moved} bytes; {board.expired - expired} actions went by themselves",
        kept=record.ok and not wrong and board.expired == expired,
        reason=wrong,
    )
