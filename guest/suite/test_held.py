# SPDX-License-Identifier: Apache-2.0
"""A DMA in flight: observed at every step, and ended there by each event that must end it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from dma_rehearsal.device.layout import DmaReason, Ext
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.exerciser_features import HeldDma, held_dma
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.config_space import flr, sleep_and_wake, transactions_pending

LENGTH, STEPS = 4096, 4  # bytes, or as many as one DMA moves


def check_step(device: Exerciser, dma: HeldDma, moved: int) -> None:
    """Hold what the registers say against what has been moved."""
    seen = dma.in_flight, transactions_pending(device.pci), dma.moved
    if seen != (True, True, moved):
        raise CheckFailed(
            f"after {moved} bytes: DMACTL busy {seen[0]}, Transactions Pending {seen[1]}, "
            f"{seen[2]} bytes moved"
        )


@pytest.mark.promise("DMA in flight")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_every_step_is_seen(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    size = bench.one_dma(LENGTH)
    step = size // STEPS
    memory = buffer(kIODirectionInOut, size, LENGTH)
    inside, outside = data.take(size), data.take(size)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    address = memory.getPhysicalAddress()
    with held_dma(bench.device, address, size, write_memory=write_memory) as dma:
        for moved in range(0, size, step):
            check_step(bench.device, dma, moved)
            expected = inside[:moved] + outside[moved:] if write_memory else outside
            with memory.view() as view:
                wrong = difference(expected, bytes(view))
            if wrong:
                raise CheckFailed(f"memory after {moved} bytes: {wrong}")
            dma.step(step)
        record = dma.record()
        pending = transactions_pending(bench.device.pci)
    wrong = difference(inside if write_memory else outside, bench.stored(size))
    attest(
        "DMA in flight",
        asked=f"{size} bytes in steps of {step}",
        attested=f"{record.moved} bytes, {record.reason.name}; pending afterwards: {pending}",
        kept=record.ok and not pending and not wrong,
        reason=wrong,
    )


@pytest.mark.promise("DMA in flight")
@pytest.mark.parametrize("steps", range(STEPS))
@pytest.mark.parametrize("end", ["bus mastering off", "FLR", "D3hot"])
def test_what_ends_it(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, end: str, steps: int
) -> None:
    """Nothing moves afterwards, whatever is written to STEP; the device records the reason."""
    device = bench.device
    size = bench.one_dma(LENGTH)
    step = size // STEPS
    memory = buffer(kIODirectionInOut, size, LENGTH)
    inside, outside = data.take(size), data.take(size)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    moved, off = steps * step, DmaReason.BUS_MASTER_OFF
    due = DmaReason.RESET if end == "FLR" else off
    with held_dma(device, memory.getPhysicalAddress(), size, write_memory=True) as dma:
        for _ in range(steps):
            dma.step(step)
        check_step(device, dma, moved)
        with device.expects(due, count=1) if due is off else nullcontext():
            if end == "FLR":  # which refuses nothing
                flr(device.pci)
            elif end == "D3hot":
                sleep_and_wake(device.pci)
            else:
                device.bus_master = False
        over = not dma.in_flight and not transactions_pending(device.pci)
        device.bus_master = True
        dma.step(size)
        reason, seen = dma.abort()
    with memory.view() as view:
        wrong = difference(inside[:moved] + outside[moved:], bytes(view))
    again = bench.device_reads(memory, outside)
    attest(
        "DMA in flight",
        asked=f"{end} after {moved} bytes: it ends there",
        attested=f"{reason.name} after {seen} bytes; then {again}",
        kept=over and (reason, seen) == (due, moved) and not wrong,
        reason=wrong or f"over: {over}",
    )


@pytest.mark.promise("DMA in flight")
def test_request_is_latched(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Registers that change under a DMA in flight do not change that DMA."""
    size = bench.one_dma(LENGTH)
    memory, other = (buffer(kIODirectionInOut, size, LENGTH) for _ in range(2))
    inside, outside = data.take(size), data.take(size)
    bench.load(inside)
    for each in memory, other:
        with each.view() as view:
            view[:] = outside
    device = bench.device
    with held_dma(device, memory.getPhysicalAddress(), size, write_memory=True) as dma:
        dma.step(size // STEPS)
        device.start_dma(other.getPhysicalAddress(), 16, write_memory=False, offset=64)
        dma.step(device.buffer_size)
        record = dma.record()
    with memory.view() as view, other.view() as untouched:
        wrong = difference(inside, bytes(view)) or difference(outside, bytes(untouched))
    attest(
        "DMA in flight",
        asked="another DMA is triggered meanwhile: ignored",
        attested=f"{record.moved} bytes at {record.address:#x}, {record.direction.name}",
        kept=record.ok and record.address == memory.getPhysicalAddress() and not wrong,
        reason=wrong,
    )


@pytest.mark.promise("DMA in flight")
def test_off_by_default(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    hold = bench.device.extension[Ext.HOLD]
    seen = bench.device_reads(buffer(kIODirectionInOut, 4096), data.take(4096))
    attest(
        "DMA in flight",
        asked="HOLD is off unless a test sets it",
        attested=f"HOLD reads {hold}; without a STEP: {seen}",
        kept=hold == 0,
    )
