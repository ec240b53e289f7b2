# SPDX-License-Identifier: Apache-2.0
"""Interrupts of the exerciser that a test counts: each vector, settled by a fence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.interrupts import Interrupt
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts
from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict

__tracebackhide__ = is_verdict

WAIT_S: Final = 5.0
"""How long a test waits for an interrupt that must come. The fence shows that none else comes."""


@contextmanager
def every_vector(device: Exerciser) -> Iterator[list[Interrupt]]:
    """Watch all vectors that the kernel granted; `CheckFailed` when MSI-X is not in use."""
    kind = device.driver.info().interrupts
    if kind is not Interrupts.MSIX:
        raise CheckFailed(f"interrupts are by {kind.name}, not by MSI-X")
    with ExitStack() as stack:
        yield [stack.enter_context(device.eventfd(vector)) for vector in range(device.vectors)]


def settle_msix(device: Exerciser, fence: Interrupt) -> int:
    """Return when all MSI-X that the device sent is at its eventfds; return the fence's count.

    Messages keep their order, but QEMU delivers the ones that it finds at one time in any
    order. It finds earlier messages at the latest with the first one of the fence, so it has
    delivered them when it delivers the second.
    """
    count = 0
    for number in (1, 2):
        device.interrupt(fence.vector)
        arrived = fence.wait(WAIT_S)
        if not arrived:
            raise CheckFailed(f"vector {fence.vector}, message {number} of the fence: lost")
        count += arrived
    processors.run_on_each()
    return count


def counts_after_settling(
    device: Exerciser, vectors: list[Interrupt], seen: dict[int, int]
) -> tuple[dict[int, int], dict[int, int]]:
    """Send the fence; return each vector's count, with those ``seen``, and the expected counts.

    One is expected for each vector of ``seen``, and two for the fence.
    """
    fence = vectors[1] if 0 in seen else vectors[0]
    fences = settle_msix(device, fence)
    counts = {each.vector: each.wait(0) + seen.get(each.vector, 0) for each in vectors}
    counts[fence.vector] += fences
    due = {each.vector: 2 * (each is fence) + (each.vector in seen) for each in vectors}
    return counts, due


def differences(counts: dict[int, int], due: dict[int, int]) -> str:
    """Name the vectors that were signalled more or less often than expected."""
    return ", ".join(
        f"vector {vector}: {counts[vector]} and not {due[vector]}"
        for vector in due
        if counts[vector] != due[vector]
    )
