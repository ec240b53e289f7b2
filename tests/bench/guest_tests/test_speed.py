# SPDX-License-Identifier: Apache-2.0
"""The guest's waits for the device. The figures go to the host with the attestations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from dma_rehearsal.device.layout import MSICTL_TRIGGER, Reg
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer

READS, WRITES, BURSTS, ROUNDS = 200, 64, 10, 20
VECTOR, WAIT_S = 3, 5.0


def median_us(
    work: Callable[[], object],
    rounds: int,
    each: int = 1,
    settle: Callable[[], object] = lambda: None,
) -> float:
    """Return the median of a work's time in microseconds, for one of ``each``.

    ``settle`` is called before each round and behind the last, and not measured.
    """
    found = []
    for _ in range(rounds):
        settle()
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) / each)
    settle()
    return statistics.median(found) * 1e6


def against_echo(
    bench: DmaChecker,
    attest: Attest,
    promise: str,
    work: Callable[[], object],
    times: int,
    each: int,
) -> None:
    """Measure ``times`` a work of ``each`` accesses, by turns with an echo loop on the same socket.

    The endpoint `tests.bench.echo:Echo` has both. Attested is the median of the rounds' ratios.
    """
    control = bench.device.control
    taken: tuple[list[float], list[float]] = ([], [])
    try:
        for _ in range(ROUNDS):
            for echo, found in enumerate(taken):
                control[Reg.VDM_CTL] = echo
                found.append(median_us(work, times, each, lambda: control[Reg.DMA_LEN]))
    finally:
        control[Reg.VDM_CTL] = 0
    bench.device.dma(0, 0, write_memory=False)  # what the device's trace shows of this test
    ratio = statistics.median(own / other for own, other in zip(*taken, strict=True))
    ours, theirs = map(statistics.median, taken)
    attest(
        promise,
        asked="x",
        attested=f"{ratio:.3f}",
        kept=ratio > 0,
        facts={"measured": f"{ours:.1f} us, echo {theirs:.1f} us", "at most": "1.2"},
        evidence="register",
    )


@pytest.mark.promise("register read")
def test_register_read(bench: DmaChecker, attest: Attest) -> None:
    control = bench.device.control
    against_echo(bench, attest, "register read", lambda: control[Reg.DMA_LEN], READS, 1)


@pytest.mark.promise("posted register write")
def test_posted_write(bench: DmaChecker, attest: Attest) -> None:
    """In bursts, each with a read at its end that is not measured."""
    control = bench.device.control

    def burst() -> None:
        for value in range(WRITES):
            control[Reg.DMA_LEN] = value

    against_echo(bench, attest, "posted register write", burst, BURSTS, WRITES)


@pytest.mark.promise("doorbell to interrupt")
def test_doorbell_to_interrupt(bench: DmaChecker, attest: Attest) -> None:
    """From the register write to the eventfd that this process waits for."""
    device = bench.device
    with device.eventfd(VECTOR) as interrupt:

        def ring() -> None:
            device.write_register(Reg.MSICTL, MSICTL_TRIGGER | VECTOR)
            if not interrupt.wait(WAIT_S):
                raise TimeoutError("no interrupt")

        ring()
        figure = median_us(ring, READS)
    attest(
        "doorbell to interrupt",
        asked="us",
        attested=f"{figure:.2f}",
        kept=figure > 0,
        evidence="interrupt",
    )


@pytest.mark.promise("DMA of 4 KiB, with its record")
def test_dma(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """One DMA of a driver: six writes, the wait, the status, the record."""
    memory = buffer(kIODirectionInOut, 4096)
    address = memory.getPhysicalAddress()
    figure = median_us(lambda: bench.device.dma(address, 4096, write_memory=True), ROUNDS)
    attest("DMA of 4 KiB, with its record", asked="us", attested=f"{figure:.2f}", kept=figure > 0)
