# SPDX-License-Identifier: Apache-2.0
"""A second opinion: QEMU's edu drives the same buffers, and sees what our device attests.

Each of its transfers takes 100 ms, so there are few.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dma_rehearsal.guest.drivers.edu import BUFFER_SIZE, Edu
from dma_rehearsal.guest.drivers.interrupts import Interrupt
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

WAIT_S = 2.0
SETTLE_S = 0.02


def agree(
    bench: DmaChecker, edu: Edu, buffers: MakeBuffer, data: bytes, pool: str | None = None
) -> tuple[str, str]:
    """Let bytes go from our device over memory to edu, and back over other memory.

    Return what was seen, for people, and what is wrong. edu must replace bytes that our device has
    written itself: it cannot know the bytes but from memory.
    """
    size = len(data)
    mask = (1 << edu.address_bits) - 1
    here, there = (buffers(kIODirectionInOut, size, pool=pool, mask=mask) for _ in range(2))
    wrote = bench.device_writes(here, data)
    bench.device_writes(there, inverted(data))
    edu.read_memory(here.getPhysicalAddress(), size)
    edu.write_memory(there.getPhysicalAddress(), size)
    with there.view() as view:
        wrong = difference(data, bytes(view[:size]))
    if wrong:
        return f"{wrote}", f"what edu read there and wrote elsewhere differs: {wrong}"
    read = bench.device_sees(there, data)
    return f"{wrote}; edu read it and wrote what our device reads as {read}", ""


@pytest.mark.unlimited("alignment")
@pytest.mark.promise("second opinion")
@pytest.mark.parametrize("size", [1, 1001, BUFFER_SIZE])
def test_bytes_and_addresses(
    bench: DmaChecker, edu: Edu, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    seen, wrong = agree(bench, edu, buffer, data.take(size))
    asked = f"{size} bytes, each device reads what the other wrote"
    attest("second opinion", asked=asked, attested=seen, kept=not wrong, reason=wrong)


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("second opinion")
def test_bytes_and_addresses_above_4_gib(
    bench: DmaChecker, wide_edu: Edu, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    seen, wrong = agree(bench, wide_edu, buffer, data.take(BUFFER_SIZE), "high")
    attest(
        "second opinion",
        asked=f"{BUFFER_SIZE} bytes above 4 GiB, edu with a widened mask",
        attested=seen,
        kept=not wrong,
        reason=wrong,
    )


@pytest.mark.promise("second opinion")
def test_interrupts(
    bench: DmaChecker, edu: Edu, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Each device's interrupt comes once, to its own eventfd, and its bytes are there by then."""
    memory = buffer(kIODirectionInOut, 64, mask=(1 << edu.address_bits) - 1)
    address = memory.getPhysicalAddress()
    ours, theirs = data.take(64), data.take(64)
    bench.device_writes(memory, theirs)
    edu.read_memory(address, 64)
    with bench.device.intx() as line, edu.interrupts() as other:
        edu.write_memory(address, 64, interrupt=True)
        of_edu = counted(other, line, edu.acknowledge)
        with memory.view() as view:
            wrong = difference(theirs, bytes(view[:64]))
        bench.device_writes(memory, ours)
        line.assert_line()
        of_ours = counted(line, other, line.deassert)
    attest(
        "second opinion",
        asked="one interrupt at the end of a DMA, of either device",
        attested=f"edu: {of_edu[0]}, and {of_edu[1]} of ours; ours: {of_ours[0]}, and "
        f"{of_ours[1]} of edu's",
        kept=of_edu == of_ours == (1, 0) and not wrong,
        reason=wrong or "an interrupt is lost, doubled, or the other device's",
    )


def counted(own: Interrupt, other: Interrupt, over: Callable[[], None]) -> tuple[int, int]:
    """Return the interrupts of a device, its line taken down by ``over``, and of the other one."""
    first = own.wait(WAIT_S)
    over()
    return first + own.wait(SETTLE_S), other.wait(0)
