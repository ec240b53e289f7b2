# SPDX-License-Identifier: Apache-2.0
"""The protection unit at its limits: thousands of grants, faults that are overwritten, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dma_rehearsal.device.layout import FAULT_CAPACITY, DmaReason, GrantDirection, ProtectionStatus
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.platform.protection_unit import (
    Grant,
    NoSuchGrant,
    ProtectionError,
    process_owner,
)
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, CheckFailed, Guarded, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.guarded import OUT, OWNER

pytestmark = pytest.mark.any_device

PROMISE = "protection unit"
COUNT = 2048  # grants, and the bytes of each; that all can be in use is tested without a guest
PIECE = 16
TOO_MANY = 40  # faults above what is kept


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
def test_thousands_of_grants(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Adjacent grants are one range; without one of them it has a hole, exactly."""
    unit, bench = guarded.unit, guarded.bench
    others, length = unit.grant_count, COUNT * PIECE
    memory = buffer(kIODirectionInOut, length)
    address = memory.getPhysicalAddress()
    # Not in order, so that the unit has to sort.
    order = [address + index * PIECE for start in range(7) for index in range(start, COUNT, 7)]
    made = unit.grant_each([(place, PIECE) for place in order], OUT, OWNER)
    ids = dict(zip(order, made, strict=True))
    seen = bench.device_reads(memory, data.take(length))
    hole = address + COUNT * 2 // 3 * PIECE
    unit.withdraw(ids[hole])
    guarded.denied(
        *(address, length),
        write=False,
        reason=DmaReason.PROTECTION_PAST_END,
        byte=hole,
        nearest=Grant(ids[hole - PIECE], hole - PIECE, PIECE, GrantDirection.OUT, OWNER),
    )
    before = bench.dma(address, hole - address, write_memory=False)
    guarded.grant(hole, PIECE, OUT)
    again = bench.dma(address, length, write_memory=False)
    attest(
        PROMISE,
        asked=f"{COUNT} grants on {length} bytes",
        attested=f"{seen}; without one: {before.moved} bytes before it, denied across it",
        kept=again.ok and unit.grant_count == others + COUNT and unit.capacity >= 65536,
        reason=f"{unit.grant_count} grants in force",
        evidence="refusal",
    )


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
def test_more_faults_than_are_kept(guarded: Guarded, buffer: MakeBuffer, attest: Attest) -> None:
    """The newest are kept, each exactly; those that were overwritten are counted."""
    unit, memory = guarded.unit, buffer(kIODirectionInOut, PAGE)
    address = memory.getPhysicalAddress()
    grant = guarded.grant(address, PAGE, OUT)
    count, lost = unit.fault_count, unit.faults_lost
    total = FAULT_CAPACITY + TOO_MANY
    device = guarded.bench.device
    with device.expects(DmaReason.PROTECTION_DIRECTION):
        dmas = device.dma_count
        for index in range(total):
            device.start_dma(address + index, index + 1, write_memory=True)
            dmas = device.await_dma(dmas)
    found = unit.faults()
    due = [(count + 1 + index, address + index, index + 1) for index in range(TOO_MANY, total)]
    if [(fault.sequence, fault.address, fault.length) for fault in found] != due:
        raise CheckFailed(f"{total} denials: {len(found)} faults are kept, {found[:2]} first")
    if any(fault.nearest != grant for fault in found):
        raise CheckFailed(f"{total} denials: not all faults name {grant}")
    now = unit.fault_count - count, unit.faults_lost
    attest(
        PROMISE,
        asked=f"{total} denials, of which {FAULT_CAPACITY} can be kept",
        attested=f"{len(found)} kept, {now[1] - lost} more lost",
        kept=now == (total, count + TOO_MANY),
        reason=f"FAULT_COUNT rose by {now[0]}, FAULT_LOST is {now[1]}, was {lost}",
        evidence="refusal",
    )


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize(
    ("address", "length", "direction"),
    [
        (PAGE, 0, 3),
        (PAGE, 1, 0),
        (PAGE, 1, 4),
        (PAGE, 1, 0xFFFF_FFFF),
        (0, 1 << 64, 3),
        ((1 << 64) - 1, 2, 3),
        (-1, 2, 3),
        (PAGE, -1, 3),
    ],
    ids=str,
)
def test_grants_that_cannot_be(
    guarded: Guarded,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    address: int,
    length: int,
    direction: int,
) -> None:
    unit, memory = guarded.unit, buffer(kIODirectionInOut, PAGE)
    count = unit.grant_count
    with pytest.raises(ProtectionError) as refused:
        unit.grant(address, length, direction, OWNER)
    kept = refused.value.status is ProtectionStatus.BAD_ARGUMENT and unit.grant_count == count
    guarded.grant(memory.getPhysicalAddress(), PAGE, OUT)
    seen = guarded.bench.device_reads(memory, data.take(PAGE))
    attest(
        PROMISE,
        asked=f"{length} bytes at {address:#x}, direction {direction}: refused",
        attested=f"{refused.value.status.name}; the next grant: {seen}",
        kept=kept,
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
def test_grants_of_a_dead_process(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """They are found by its tag, and nobody else's go with them."""
    unit, memory = guarded.unit, buffer(kIODirectionInOut, PAGE)
    address = memory.getPhysicalAddress()
    unit.withdraw_dead()  # other tests kill processes
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        tag = process_owner(process.pid)
        theirs = [unit.grant(address + PAGE // 2, PAGE // 2, OUT, tag) for _ in range(3)]
        ours = guarded.grant(address, PAGE // 2, OUT)
        living = unit.withdraw_dead()
        process.kill()
    seen = guarded.bench.device_reads(memory, data.take(PAGE))
    owners, dead = unit.owners(), unit.withdraw_dead()
    guarded.denied(
        *(address, PAGE),
        write=False,
        reason=DmaReason.PROTECTION_PAST_END,
        byte=address + PAGE // 2,
        nearest=ours,
    )
    with pytest.raises(NoSuchGrant):
        unit.withdraw(theirs[0])
    attest(
        PROMISE,
        asked=f"a process with {len(theirs)} grants dies",
        attested=f"{dead} withdrawn, and {living} before; both had: {seen}",
        kept=(living, dead) == (0, len(theirs)) and {tag, OWNER} <= {*owners},
        reason=f"owners {owners}",
        evidence="refusal",
    )
