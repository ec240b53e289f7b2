# SPDX-License-Identifier: Apache-2.0
"""Released memory rests: a late DMA is denied, and does not land in another buffer."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    current_task,
    kIODirectionInOut,
    kIOMapInhibitCache,
    kIOMemoryKernelUserShared,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns, difference, inverted

pytestmark = pytest.mark.any_device

FOLLOWING = 8  # buffers that are made after the release
create = IOBufferMemoryDescriptor.inTaskWithOptions


@pytest.mark.unlimited("addresses", "alignment", "segments")
@pytest.mark.promise("release")
@pytest.mark.parametrize(
    ("pool", "options", "capacity"),
    [
        ("main", kIODirectionInOut, 64),
        ("high", kIODirectionInOut, 1500),
        ("main", kIODirectionInOut, PAGE),
        ("high", kIODirectionInOut | kIOMapInhibitCache, 100_000),
        pytest.param(
            *("main", kIODirectionInOut | kIOMemoryKernelUserShared, 10_000),
            marks=pytest.mark.kernel,
        ),
        pytest.param("pinned", kIODirectionInOut, PAGE, marks=pytest.mark.kernel),
    ],
    ids=["block", "large-block", "page", "uncached", "shared", "pinned"],
)
def test_late_dma_meets_nobody(
    bench: DmaChecker,
    data: Patterns,
    attest: Attest,
    pool: str,
    options: IOOptions | int,
    capacity: int,
) -> None:
    """A device still writes to a buffer that was released, while others were made since."""
    length = min(capacity, PAGE)
    content = data.take(length)
    with ExitStack() as stack:

        def make() -> IOBufferMemoryDescriptor:
            return stack.enter_context(create(current_task(), options, capacity, pool=pool))

        make()  # a neighbour, so that a page of blocks stays
        early = make()
        late = early.getPhysicalAddress()
        early.release()
        attest.released(early)
        others = [make() for _ in range(FOLLOWING)]
        for other in others:
            other.writeBytes(0, content)
        bench.load(inverted(content))
        denied = DmaReason.PROTECTION_OUTSIDE
        record = bench.refused_dma(denied, late, length, write_memory=True)
        wrong = [
            found for each in others if (found := difference(content, each.readBytes(0, length)))
        ]
    attest(
        "release",
        asked=f"{capacity} bytes of {pool} rest: a late DMA is denied",
        attested=f"{record.reason.name} at {late:#x}; {FOLLOWING} buffers since are as they were",
        kept=record.reason is DmaReason.PROTECTION_OUTSIDE and not wrong,
        reason="; ".join(wrong) or record.reason.name,
        evidence="refusal",
    )
