# SPDX-License-Identifier: Apache-2.0
"""The protection unit's grants for one function: no other function may use them."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import DmaReason, function_address
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, Guarded, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.guarded import IN_OUT, check_untouched, prepare

pytestmark = [
    pytest.mark.any_device,
    pytest.mark.unlimited("alignment", "segments"),
    pytest.mark.promise("protection unit"),
]

SIZE = PAGE
both_ways = pytest.mark.parametrize("write", [False, True], ids=["read", "write"])


@both_ways
def test_granted_to_another_function(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool
) -> None:
    """A sibling in the same slot has the grant: nothing moves, until the device has its own."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, SIZE, PAGE)
    address, own = memory.getPhysicalAddress(), guarded.function
    sibling = own ^ 1
    grant = guarded.grant(address, SIZE, IN_OUT, sibling)
    inside = data.take(SIZE)
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        tries = [(at, length, at) for at, length in ((address, SIZE), (address + SIZE - 1, 1))]
        fault = guarded.denied_each(
            tries, write=write, reason=DmaReason.PROTECTION_FUNCTION, nearest=grant
        )
        check_untouched(bench, view, inside, in_device)
    ours = guarded.grant(address, SIZE, IN_OUT, own)
    before = guarded.unit.fault_count
    bench.device_reads(memory, data.take(SIZE))
    bench.device_writes(memory, data.take(SIZE))
    guarded.recorded("DMA with a grant of its own", before, [])
    guarded.unit.withdraw(ours.id)
    guarded.denied(
        *(address, SIZE),
        write=write,
        reason=DmaReason.PROTECTION_FUNCTION,
        byte=address,
        nearest=grant,
    )
    attest(
        "protection unit",
        asked=f"device {'writes' if write else 'reads'} what {function_address(sibling)} may use",
        attested=f"fault {fault.sequence}: {fault.reason.name} for {function_address(own)}",
        kept=True,
        evidence="refusal",
    )


@both_ways
def test_across_into_another_functions_memory(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool
) -> None:
    """Adjacent grants of two functions are not one range for either."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, 2 * PAGE, PAGE)
    address, own = memory.getPhysicalAddress(), guarded.function
    guarded.grant(address, PAGE, IN_OUT, own)
    theirs = guarded.grant(address + PAGE, PAGE, IN_OUT, own ^ 1)
    inside = data.take(2 * PAGE)
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        fault = guarded.denied(
            *(address, PAGE + 1),
            write=write,
            reason=DmaReason.PROTECTION_FUNCTION,
            byte=address + PAGE,
            nearest=theirs,
        )
        check_untouched(bench, view, inside, in_device)
    attest(
        "protection unit",
        asked=f"{PAGE + 1} bytes, the last of them granted to {function_address(own ^ 1)}",
        attested=f"fault {fault.sequence}: {fault.reason.name} at {fault.byte:#x}",
        kept=True,
        evidence="refusal",
    )
