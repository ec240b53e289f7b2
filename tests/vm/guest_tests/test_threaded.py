# SPDX-License-Identifier: Apache-2.0
"""A device that works in a thread, by a watched socket and in a coroutine: its interrupt comes."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.drivers import DriverFunction, Interrupt, PciError, PciFunction
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, MakeBuffer

VENDOR, DEVICE = 0x1234, 0x7EAD
ADDRESS, DOORBELL, DONE = 0x00, 0x08, 0x0C
TIMEOUT_S = 5.0


@pytest.mark.promise("MSI-X")
@pytest.mark.parametrize("count", [1, 20])
def test_interrupt_comes_within_the_test(buffer: MakeBuffer, attest: Attest, count: int) -> None:
    memory = buffer(kIODirectionInOut, 16)
    with PciFunction.find(VENDOR, DEVICE) as function:
        function.bind()
        node = function.driver_node()
        if node is None:
            raise PciError(f"{function.address} has no device file")
        driver = DriverFunction(node)
        driver.set_bus_master(True)
        done = Interrupt(driver, vector=0)
        bar = function.bar(0)
        try:
            before = bar[DONE]
            bar.set64(ADDRESS, memory.getPhysicalAddress())
            for number in range(count):
                memory.writeBytes(0, b"message%d" % (number % 10))
                bar[DOORBELL] = 1
                assert done.wait(TIMEOUT_S), "no interrupt"
                assert bytes(memory.readBytes(8, 8)) == b"%degassem" % (number % 10)
            attest(
                "MSI-X",
                asked=f"{count} doorbells: an interrupt each",
                attested=f"{bar[DONE] - before} of {count}",
                kept=bar[DONE] - before == count,
                evidence="interrupt",
            )
        finally:
            done.close()
            driver.close()
