# SPDX-License-Identifier: Apache-2.0
"""The tutorial's device behind the IOMMU: its reads of memory that is mapped, and that is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.drivers.vfio import Container, VfioFunction
from dma_rehearsal.guest.testkit import Attest
from dma_rehearsal.guest.testkit.iommu import Anonymous, KernelLog

pytestmark = [pytest.mark.iommu, pytest.mark.promise("IOMMU denial")]

VENDOR, DEVICE = 0x1234, 0xC5C5
ADDRESS, LENGTH, DOORBELL, STATUS = 0x00, 0x08, 0x0C, 0x10
DONE, REFUSED = 1, 2
UNMAPPED = 0x5000
TIMEOUT_S = 5.0


class Engine:
    """The checksum engine, opened by VFIO."""

    def __init__(self, container: Container, function: VfioFunction, pci: PciFunction) -> None:
        self.container = container
        self.source = pci.address.partition(":")[2]
        self._bar: Bar = function.bar(0)

    def sum(self, address: int) -> tuple[int, int]:
        """Have it read 64 bytes; return the result and why it was refused."""
        self._bar.set64(ADDRESS, address)
        self._bar[LENGTH] = 64
        self._bar[DOORBELL] = 1
        deadline = time.monotonic() + TIMEOUT_S
        while not (status := self._bar[STATUS]) & 3:
            assert time.monotonic() < deadline, f"STATUS reads {status:#x}"
        return status & 3, status >> 8


@pytest.fixture
def engine() -> Iterator[Engine]:
    with ExitStack() as stack:
        container = stack.enter_context(Container())
        pci = PciFunction.find(VENDOR, DEVICE)
        function = stack.enter_context(VfioFunction.open(container, pci))
        function.driver.set_bus_master(True)
        yield Engine(container, function, pci)


def test_mapped(engine: Engine, attest: Attest) -> None:
    memory = Anonymous(4096)
    with engine.container.map(memory.address, 4096, read=True, write=False) as mapped:
        seen = engine.sum(mapped.address)
    attest("IOMMU denial", asked="mapped: read", attested=f"{seen}", kept=seen == (DONE, 0))


def test_unmapped_and_announced(engine: Engine, expects: Announce, attest: Attest) -> None:
    attest.expect_fault(engine.source, UNMAPPED, write=False)
    with expects(DmaReason.UNMAPPED):
        seen = engine.sum(UNMAPPED)
    attest(
        "IOMMU denial",
        asked="unmapped: refused",
        attested=f"{seen}",
        kept=seen == (REFUSED, DmaReason.UNMAPPED),
        evidence="refusal",
    )


def test_unmapped(engine: Engine) -> None:
    """The bug: it is not mapped, and the refusal is not announced."""
    with KernelLog() as log:
        engine.sum(UNMAPPED)
        assert log.await_fault(UNMAPPED, write=False)
