# SPDX-License-Identifier: Apache-2.0
"""An eager device has done its DMA when the store to its doorbell returns, a held one has not."""

from __future__ import annotations

import time

from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, kIODirectionInOut
from dma_rehearsal.guest.testkit import DmaChecker, MakeBuffer, Patterns

LENGTH, TIMES = 4096, 50
PATIENCE_S = 10.0


def begin(device: Exerciser, memory: IOBufferMemoryDescriptor) -> None:
    """Store to the doorbell's mapping, and read nothing of the device afterwards."""
    device.start_dma(memory.getPhysicalAddress(), LENGTH, write_memory=True)


def content(memory: IOBufferMemoryDescriptor) -> bytes:
    with memory.view() as view:
        return bytes(view)


def test_eager(bench: DmaChecker, buffer: MakeBuffer, data: Patterns) -> None:
    memory = buffer(kIODirectionInOut, LENGTH)
    for _ in range(TIMES):
        written = data.take(LENGTH)
        bench.load(written)
        begin(bench.device, memory)
        assert content(memory) == written


def test_held(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, platform: PlatformDevice
) -> None:
    board, memory = platform.board, buffer(kIODirectionInOut, LENGTH)
    board.holding = True
    try:
        for _ in range(TIMES):
            before, written = content(memory), data.take(LENGTH)
            bench.load(written)
            begin(bench.device, memory)
            assert board.held == 1
            assert content(memory) == before
            board.release()
            deadline = time.monotonic() + PATIENCE_S
            while board.held:
                assert time.monotonic() < deadline
            assert content(memory) == written
    finally:
        board.holding = False
