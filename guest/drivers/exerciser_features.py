# SPDX-License-Identifier: Apache-2.0
"""Further features of the exerciser: held DMA, limits, translations, the trace, the ring."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import (
    HOLD_ON,
    RING_ENABLE,
    RING_REFUSED_INDEX,
    RING_REFUSED_REASON_SHIFT,
    TXN_ENABLE,
    TXN_SIZE_SHIFT,
    TXN_TRACE_CAPACITY,
    TXN_TRACE_EMPTY,
    AtsCtl,
    AtsPerm,
    DmaCtl,
    DmaReason,
    Ext,
    Reg,
    RingDescriptor,
    RingStatus,
    TxnAttribute,
)
from dma_rehearsal.guest.drivers.exerciser import DMA_TIMEOUT, DmaRecord, Exerciser, ExerciserError
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.base.dma_activity import InFlight

_NO_FLAGS: Final = AtsCtl(0)


class HeldDma:
    """A DMA in flight that moves only when `step` is called."""

    def __init__(self, device: Exerciser, before: int) -> None:
        self._device, self._before = device, before

    @property
    def in_flight(self) -> bool:
        """Whether DMACTL says that the DMA is not done."""
        return bool(self._device.control[Reg.DMACTL] & DmaCtl.TRIGGER_MASK)

    @property
    def moved(self) -> int:
        """Bytes moved so far; 0 when it is no longer in flight."""
        return self._device.extension[Ext.HELD_MOVED]

    def step(self, length: int) -> None:
        """Let it move ``length`` bytes more."""
        self._device.extension[Ext.STEP] = length

    def record(self) -> DmaRecord:
        """Return the record of the DMA, which must have ended; raises as `Exerciser.dma`."""
        return self._device.end_dma(self._before)

    def abort(self) -> tuple[DmaReason, int]:
        """Return the reason why the device's last aborted DMA ended, and the bytes it had moved."""
        extension = self._device.extension
        return DmaReason(extension[Ext.ABORT_REASON]), extension[Ext.ABORT_MOVED]


@contextmanager
def held_dma(
    device: Exerciser, address: int, length: int, *, write_memory: bool, no_snoop: bool = False
) -> Iterator[HeldDma]:
    """Put a DMA in flight; the end of the ``with`` moves the rest of it."""
    before = device.dma_count
    device.extension[Ext.HOLD] = HOLD_ON
    try:
        device.start_dma(address, length, write_memory=write_memory, no_snoop=no_snoop)
        yield HeldDma(device, before)
    finally:
        device.extension[Ext.HOLD] = 0


class DmaWatch:
    """Reports the exerciser's DMA in flight to the allocator (`iobuffer.dma_activity`).

    The range is the one in the address and length registers. Writing them meanwhile hides it.
    """

    def __init__(self, device: Exerciser) -> None:
        self._device = device

    def in_flight(self) -> list[InFlight]:
        """Return the DMA in flight, if there is one."""
        control = self._device.control
        if not control[Reg.DMACTL] & DmaCtl.TRIGGER_MASK:
            return []
        address, length = control.get64(Reg.DMA_BUS_ADDR_LO), control[Reg.DMA_LEN]
        left = self._device.extension[Ext.HELD_LEFT]
        return [
            InFlight(
                address,
                length,
                f"the exerciser has {left} of {length} bytes at {address:#x} to go",
            )
        ]


@contextmanager
def constrained(device: Exerciser, limits: Mapping[Ext, int]) -> Iterator[None]:
    """Put limits on the device's DMA: ADDRESS_BITS, ALIGNMENT, MAX_SEGMENT, BOUNDARY, ..."""
    try:
        for register, value in limits.items():
            device.extension[register] = value
        yield
    finally:
        for register in limits:
            device.extension[register] = 0


@dataclass(frozen=True, slots=True)
class Translation:
    """The answer to a translation request: a range in bytes and what it permits."""

    success: bool
    address: int
    size: int
    permissions: AtsPerm


def translate(device: Exerciser, address: int, flags: AtsCtl = _NO_FLAGS) -> Translation:
    """Send a translation request; its answer is kept in the device's one-entry cache."""
    device.control.set64(Reg.DMA_BUS_ADDR_LO, address)
    device.control[Reg.ATSCTL] = AtsCtl.TRIGGER | flags
    return Translation(
        bool(device.control[Reg.ATSCTL] & AtsCtl.SUCCESS),
        device.control.get64(Reg.ATS_ADDR_LO),
        device.control[Reg.ATS_RANGE_SIZE],
        AtsPerm(device.control[Reg.ATS_PERM]),
    )


@dataclass(frozen=True, slots=True)
class Transaction:
    """One access that reached the device: ``size`` in bytes, ``address`` on the bus.

    In configuration space ``address`` is the register's offset.
    """

    read: bool
    config: bool
    size: int
    address: int
    data: int


@contextmanager
def monitored(device: Exerciser) -> Iterator[list[Transaction]]:
    """Trace the accesses that reach the device within the ``with``; its end fills the list."""
    found: list[Transaction] = []
    device.control[Reg.TXN_CTRL] = TXN_ENABLE
    try:
        yield found
    finally:
        device.control[Reg.TXN_CTRL] = 0
    found += _traced(device)


def _traced(device: Exerciser) -> Iterator[Transaction]:
    control = device.control
    for _ in range(TXN_TRACE_CAPACITY + 1):
        attributes = control[Reg.TXN_TRACE]
        if attributes == TXN_TRACE_EMPTY:
            return
        low, high, data_low, data_high = (control[Reg.TXN_TRACE] for _ in range(4))
        yield Transaction(
            bool(attributes & TxnAttribute.READ),
            bool(attributes & TxnAttribute.CONFIG),
            attributes >> TXN_SIZE_SHIFT,
            low | high << 32,
            data_low | data_high << 32,
        )
    raise ExerciserError(f"{device.pci.address}: the transaction trace has no end")


class DescriptorRing(Closing):
    """The device's ring in a buffer: ``memory`` is the CPU's view, ``address`` the bus's.

    The buffer holds ``size`` descriptors of 32 bytes. A context manager that turns the ring off. A
    transfer that is refused halts it: see `refused` and `restart`.
    """

    def __init__(
        self, device: Exerciser, memory: memoryview, address: int, size: int, *, vector: int = 0
    ) -> None:
        self.size = size
        self._device, self._memory = device, memory
        extension = device.extension
        extension[Ext.RING_CONTROL] = 0
        extension.set64(Ext.RING_BASE_LO, address)
        extension[Ext.RING_SIZE] = size
        extension[Ext.RING_VECTOR] = vector
        extension[Ext.RING_CONTROL] = RING_ENABLE

    def put(self, index: int, descriptor: RingDescriptor) -> None:
        """Store a descriptor; ``index`` wraps."""
        size = RingDescriptor.STRUCT.size
        start = index % self.size * size
        self._memory[start : start + size] = descriptor.pack()

    def doorbell(self, tail: int) -> RingStatus:
        """Have the device run the descriptors before index ``tail``; return the ring's status.

        `ExerciserError` when the ring is busy for longer than `DMA_TIMEOUT`: a descriptor,
        or its memory, is where only the device's client reaches.
        """
        self._device.extension[Ext.RING_DOORBELL] = tail
        deadline = time.monotonic() + DMA_TIMEOUT
        while (value := self._device.extension[Ext.RING_STATUS]) == RingStatus.BUSY:
            if time.monotonic() > deadline:
                raise ExerciserError(
                    f"{self._device.pci.address}: the ring is still busy after {DMA_TIMEOUT} s"
                )
        try:
            return RingStatus(value)
        except ValueError as error:
            raise ExerciserError(f"{self._device.pci.address}: RING_STATUS {value:#x}") from error

    @property
    def completion(self) -> int:
        """The index behind the last descriptor that was done."""
        return self._device.extension[Ext.RING_COMPLETION]

    @property
    def transfers(self) -> int:
        """Transfers that were done since the reset."""
        return self._device.extension[Ext.RING_TRANSFERS]

    @property
    def refused(self) -> tuple[int, DmaReason] | None:
        """The transfer that halted the ring: its first descriptor's index and the reason, or None.

        It moved nothing, and no later descriptor was run.
        """
        value = self._device.extension[Ext.RING_REFUSED]
        if not value:
            return None
        try:
            reason = DmaReason(value >> RING_REFUSED_REASON_SHIFT)
        except ValueError as error:
            raise ExerciserError(f"{self._device.pci.address}: RING_REFUSED {value:#x}") from error
        return value & RING_REFUSED_INDEX, reason

    def restart(self) -> None:
        """Turn the ring off and on: it goes on at index 0, halted or not."""
        self._device.extension[Ext.RING_CONTROL] = 0
        self._device.extension[Ext.RING_CONTROL] = RING_ENABLE

    def close(self) -> None:
        """Turn the ring off."""
        self._device.extension[Ext.RING_CONTROL] = 0
