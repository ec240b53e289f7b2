# SPDX-License-Identifier: Apache-2.0
"""The limit on a transfer's segments, which only transfers of the ring have several of."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from dma_rehearsal.device.layout import DmaReason, Ext, RingDescriptor, RingFlag, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing, constrained
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
    inverted,
)

pytestmark = pytest.mark.any_device


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise("constraints")
def test_max_segments(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Of transfers in two and in three segments the ring runs the shorter one alone."""
    memory, inside = buffer(kIODirectionInOut, 300), data.take(300)
    bench.load(inside)
    with memory.view() as view:
        view[:] = inverted(inside)
    ring_memory = buffer(kIODirectionInOut, 16 * RingDescriptor.STRUCT.size)
    base, seen = memory.getPhysicalAddress(), []
    with (
        constrained(bench.device, {Ext.MAX_SEGMENTS: 2}),
        ring_memory.view() as view,
        DescriptorRing(bench.device, view, ring_memory.getPhysicalAddress(), 16) as ring,
    ):
        for first, count in ((0, 3), (100, 2)):
            ring.restart()
            for index in range(count):
                place = first + 50 * index
                more = RingFlag.CHAIN if index + 1 < count else RingFlag(0)
                descriptor = RingDescriptor(base + place, 50, place, RingFlag.WRITE_MEMORY | more)
                ring.put(index, descriptor)
            refused = bench.device.expects(DmaReason.MAX_SEGMENTS)
            with refused if count > 2 else nullcontext():
                status = ring.doorbell(count)
            record = bench.device.record(bench.device.dma_count)
            seen.append((status, record.reason, record.moved, record.segments))
    with memory.view() as view:
        outside = inverted(inside)
        wrong = difference(outside[:100] + inside[100:200] + outside[200:], bytes(view))
    attest(
        "constraints",
        asked="MAX_SEGMENTS 2: a transfer in two segments, not one in three",
        attested=", ".join(f"{reason.name}, {moved} bytes moved" for _, reason, moved, _ in seen),
        kept=seen
        == [
            (RingStatus.REFUSED, DmaReason.MAX_SEGMENTS, 0, 3),
            (RingStatus.OK, DmaReason.NONE, 100, 2),
        ]
        and not wrong,
        reason=wrong,
        evidence="refusal",
    )
