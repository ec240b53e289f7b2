# SPDX-License-Identifier: Apache-2.0
"""DMA that the IOMMU refuses, as seen in the device, in memory and in the kernel's log."""

from __future__ import annotations

from typing import Final

from dma_rehearsal.device.layout import DmaReason, DmaStatus, RingDescriptor, RingFlag, RingStatus
from dma_rehearsal.guest.drivers.exerciser import DmaRecord
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.testkit.attestation import Attest, is_verdict
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.iommu import KernelLog
from dma_rehearsal.guest.testkit.patterns import Patterns, difference

__tracebackhide__ = is_verdict

_TRIES: Final = 2  # other messages of the kernel can use up the rate limit of faults


class Denial:
    """DMA that the IOMMU must refuse: nothing moves, and device and kernel report it."""

    def __init__(self, bench: DmaChecker, log: KernelLog, data: Patterns, attest: Attest) -> None:
        self._bench, self._log, self._data, self._attest = bench, log, data, attest
        self.seen: list[str] = []
        self.wrong: list[str] = []

    def __call__(
        self,
        what: str,
        address: int,
        reason: DmaReason,
        *,
        write: bool,
        length: int = 64,
        ring: DescriptorRing | None = None,
    ) -> None:
        """Have the device try, and look at its buffer, its record and the kernel's log.

        It is one DMA of the next length that the device can move, at most one DMA's. With
        ``ring`` the ring does it, and halts.
        """
        bench = self._bench
        length = bench.one_dma(bench.fits(length))
        inside = self._data.take(length)
        bench.load(inside)
        for _ in range(_TRIES):
            self._log.pace()
            with bench.device.expects(reason):
                if ring is None:
                    record = bench.device.dma(address, length, write_memory=write)
                else:
                    record = self._by_ring(ring, address, length, write=write)
            told = self._log.await_fault(address, write=write)
            if told or record.ok:
                break
            self._log.rest()
        source = bench.device.pci.address.partition(":")[2]
        self._attest.expect_fault(source, address, write=write)
        self.seen.append(f"{what}: {record.reason.name}, {record.moved} bytes moved")
        self._expect(record.status is DmaStatus.INTERNAL and record.moved == 0, what, record)
        self._expect(record.reason is reason, f"{what}: wanted {reason.name}", record)
        self._expect(bench.stored(length) == inside, f"{what}: the device's buffer", record)
        self._expect(bool(told), f"{what}: no fault in the kernel's log", record)

    def _by_ring(
        self, ring: DescriptorRing, address: int, length: int, *, write: bool
    ) -> DmaRecord:
        flags = RingFlag.WRITE_MEMORY if write else RingFlag(0)
        ring.restart()
        ring.put(0, RingDescriptor(address, length, 0, flags))
        status = ring.doorbell(1)
        device = self._bench.device
        record = device.record(device.dma_count)
        if (status, ring.refused) != (RingStatus.REFUSED, (0, record.reason)):
            self.wrong.append(f"the ring: {status.name}, refused {ring.refused}")
        return record

    def memory_intact(self, view: memoryview, expected: bytes) -> None:
        """Expect the bytes that the CPU stored in memory."""
        if found := difference(expected, bytes(view)):
            self.wrong.append(f"memory changed: {found}")

    def intact(self, memory: IOBufferMemoryDescriptor, expected: bytes) -> None:
        """Expect the bytes that the CPU stored in a buffer."""
        with memory.view() as view:
            self.memory_intact(view, expected)

    def done(self, asked: str, promise: str = "IOMMU denial") -> None:
        """Attest the denials so far."""
        self._attest(
            promise,
            asked=asked,
            attested="; ".join(self.seen),
            kept=not self.wrong,
            reason="; ".join(self.wrong),
            evidence="refusal",
        )

    def _expect(self, true: bool, what: str, record: DmaRecord) -> None:
        if not true:
            self.wrong.append(f"{what} ({record})")
