"""How long the guest waits for the device. The figures go to the host with the attestations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
from iobuffer import kIODirectionInOut
from layout import MSICTL_TRIGGER, Reg
from suite.attestation import Attest
from suite.bench import Bench, MakeBuffer

READS, WRITES, ROUNDS = 200, 64, 20
VECTOR, WAIT_S = 3, 5.0


def median_us(work: Callable[[], object], rounds: int, each: int = 1) -> float:
    """Return the median of a work's time in microseconds, for one of ``each``."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) / each)
    return statistics.median(found) * 1e6


@pytest.mark.promise("register read")
def test_register_read(bench: Bench, attest: Attest) -> None:
    control = bench.device.control
    figure = median_us(lambda: control[Reg.DMA_LEN], READS)
    bench.device.dma(0, 0, write_memory=False)  # what the device's trace shows of this test
    attest("register read", asked="us", attested=f"{figure:.2f}", kept=figure > 0)


@pytest.mark.promise("posted register write")
def test_posted_write(bench: Bench, attest: Attest) -> None:
    """A burst, and a read at its end that is not measured."""
    control = bench.device.control

    def burst() -> None:
        for value in range(WRITES):
            control[Reg.DMA_LEN] = value

    found = []
    for _ in range(ROUNDS):
        found.append(median_us(burst, 1, WRITES))
        control[Reg.DMA_LEN]
    bench.device.dma(0, 0, write_memory=False)  # what the device's trace shows of this test
    figure = statistics.median(found)
    attest("posted register write", asked="us", attested=f"{figure:.2f}", kept=figure > 0)


@pytest.mark.promise("doorbell to interrupt")
def test_doorbell_to_interrupt(bench: Bench, attest: Attest) -> None:
    """From the register write to the eventfd that this process waits for."""
    device = bench.device
    with device.eventfd(VECTOR) as interrupt:

        def ring() -> None:
            device.write_register(Reg.MSICTL, MSICTL_TRIGGER | VECTOR)
            if not interrupt.wait(WAIT_S):
                raise TimeoutError("no interrupt")

        ring()
        figure = median_us(ring, READS)
    attest("doorbell to interrupt", asked="us", attested=f"{figure:.2f}", kept=figure > 0)


@pytest.mark.promise("DMA of 4 KiB, with its record")
def test_dma(bench: Bench, buffer: MakeBuffer, attest: Attest) -> None:
    """What a driver does for one DMA: six writes, the wait, the status, the record."""
    memory = buffer(kIODirectionInOut, 4096)
    address = memory.getPhysicalAddress()
    figure = median_us(lambda: bench.device.dma(address, 4096, write_memory=True), ROUNDS)
    attest("DMA of 4 KiB, with its record", asked="us", attested=f"{figure:.2f}", kept=figure > 0)
