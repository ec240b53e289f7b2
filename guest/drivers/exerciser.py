# SPDX-License-Identifier: Apache-2.0
"""The PCIe Exerciser from user space: registers, DMA, interrupts, through sysfs and the driver."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import (
    DMASTATUS_CLEAR,
    DMASTATUS_CODE,
    EXT_MAGIC,
    EXT_VERSION,
    INTXCTL_ASSERT,
    MSICTL_TRIGGER,
    MSICTL_VECTOR,
    DmaAttribute,
    DmaCtl,
    DmaDirection,
    DmaReason,
    DmaStatus,
    ExerciserBar,
    Ext,
    ExtFeature,
    Reg,
)
from dma_rehearsal.guest.drivers.device_limits import Limits
from dma_rehearsal.guest.drivers.interrupts import FunctionDriver, Interrupt
from dma_rehearsal.guest.drivers.pci_bars import Bar, PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform import refusals
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction, Interrupts
from dma_rehearsal.guest.linux.kernel_cmdline import device_parameters

DMA_TIMEOUT: Final = 5.0  # seconds; a DMA in mapped memory is done when its trigger is
_PLAIN: Final = DmaCtl(0)
# Plain ints for each DMA: one operation on an IntFlag costs as much as ten on ints.
_TRIGGER, _TRIGGER_MASK = int(DmaCtl.TRIGGER), int(DmaCtl.TRIGGER_MASK)
_WRITE_MEMORY, _NO_SNOOP = int(DmaCtl.WRITE_MEMORY), int(DmaCtl.NO_SNOOP)
# RECORD_SEQUENCE to RECORD_SEGMENTS, in the order of their offsets.
_RECORD: Final = struct.Struct("<IIIQ7I")


class ExerciserError(PciError):
    """The exerciser has another kind or version, or broke a rule of its registers."""


@dataclass(frozen=True, slots=True)
class DmaRecord:
    """One DMA: the DMASTATUS that the driver saw, and the device's record of it.

    ``address``, ``length``, ``moved`` and ``offset`` (into the device's buffer) are in bytes;
    ``crc32`` is of the bytes moved. A refused DMA has a ``reason`` and moved nothing. ``used``
    is the address that left the device; None where the device does not report it.
    """

    status: DmaStatus
    recorded_status: DmaStatus
    sequence: int
    reason: DmaReason
    address: int
    length: int
    moved: int
    direction: DmaDirection
    attributes: DmaAttribute
    offset: int
    crc32: int
    segments: int = 1
    used: int | None = None

    @property
    def ok(self) -> bool:
        """Whether register and record both report that all bytes were moved."""
        return (
            self.status == self.recorded_status == DmaStatus.OK
            and self.reason == DmaReason.NONE
            and self.moved == self.length
        )


class IntxInterrupt(Interrupt):
    """An eventfd that INTx signals, and the line itself; a context manager.

    The driver lets one interrupt through, then masks INTx. To serve one: `deassert`, then `unmask`.
    """

    def __init__(self, driver: FunctionDriver, control: Bar) -> None:
        self._control = control
        self._before = driver.info().interrupts
        driver.set_interrupts(Interrupts.INTX)
        try:
            self.deassert()  # a previous user may have left the line up
            super().__init__(driver, 0)
        except BaseException:
            driver.set_interrupts(self._before)
            raise

    def assert_line(self) -> None:
        """Make the device take its line up."""
        self._control[Reg.INTXCTL] = INTXCTL_ASSERT

    def deassert(self) -> None:
        """Make the device take its line down."""
        self._control[Reg.INTXCTL] = 0

    def unmask(self) -> None:
        """Let the next interrupt through. A line that is still up signals once more."""
        self._driver.unmask()

    def close(self) -> None:
        """Take the line down, then the eventfd away, and give MSI-X back; again is nothing."""
        if self._fd >= 0 and not self._driver.closed:
            self.deassert()
            super().close()
            self._driver.set_interrupts(self._before)
        else:
            super().close()


def find(index: int = 0) -> PciFunction:
    """Return the exerciser's function, bound to the driver: 13b5:ed01, or the one announced.

    ``index`` 1 is its peer, where a run has one. `PciError` when it is absent, or bound to
    another driver.
    """
    device = device_parameters()
    function = PciFunction.find(device.vendor, device.device, index)
    if not device.is_plain:
        function.bind()
    return function


class Exerciser(Closing):
    """13b5:ed01, or a user's device, found by its id. Its ``limits`` are those of its DMA.

    A context manager; not for several threads at once. ``driver`` gives interrupts and bus
    mastering, where the module dma_rehearsal does not. The module's file is open as long as this
    is: when the last one is closed, also by a process's death, the function is stopped. Under TCG
    each register access costs 30 to 45 us when it is a read and 4 to 8 us when it is a write.
    """

    def __init__(
        self, function: PciFunction | None = None, *, driver: FunctionDriver | None = None
    ) -> None:
        self.pci = function or find()
        self.pci.enable()
        self._control = self.pci.bar(ExerciserBar.CONTROL)
        self._extension = self.pci.bar(ExerciserBar.EXTENSION)
        self._driver = driver
        magic, version = self._extension[Ext.MAGIC], self._extension[Ext.VERSION]
        if magic != EXT_MAGIC or version >> 16 != EXT_VERSION >> 16:
            self.close()
            raise ExerciserError(
                f"{self.pci.address}: BAR3 has magic {magic:#x} version {version:#x}, "
                f"not {EXT_MAGIC:#x} and {EXT_VERSION:#x}"
            )
        self.features = ExtFeature(self._extension[Ext.FEATURES])
        self._tells_used = ExtFeature.PROFILE in self.features
        self.buffer_size = self._extension[Ext.BUFFER_SIZE]
        self.limits = Limits.read(self._extension)
        if self._driver is None and self.pci.driver_node() is not None:
            self._driver = self.driver  # the end of this process stops the device

    @property
    def control(self) -> Bar:
        """BAR0, Arm's registers."""
        return self._control

    @property
    def extension(self) -> Bar:
        """BAR3: the extensions beyond Arm's layout."""
        return self._extension

    @property
    def buffer(self) -> memoryview:
        """The device's own buffer, BAR1. It is slow: each access is a message to the device."""
        return self.pci.bar(ExerciserBar.BUFFER).data[: self.buffer_size]

    def read_register(self, register: Reg) -> int:
        """Read one control register."""
        return self._control[register]

    def write_register(self, register: Reg, value: int) -> None:
        """Write one control register."""
        self._control[register] = value

    def dma(
        self,
        address: int,
        length: int,
        *,
        write_memory: bool,
        offset: int = 0,
        no_snoop: bool = False,
        control: DmaCtl = _PLAIN,
    ) -> DmaRecord:
        """Do one DMA between bus ``address`` and ``offset`` of the device's buffer.

        With ``write_memory`` the device writes to memory, else it reads; ``control`` adds
        bits of DMACTL. A refused DMA is a record, not an error. `ExerciserError` when it is
        not done within `DMA_TIMEOUT` seconds, or left no record.
        """
        before = self._extension[Ext.DMA_COUNT]
        self.start_dma(
            address,
            length,
            write_memory=write_memory,
            offset=offset,
            no_snoop=no_snoop,
            control=control,
        )
        return self.end_dma(before)

    def start_dma(
        self,
        address: int,
        length: int,
        *,
        write_memory: bool,
        offset: int = 0,
        no_snoop: bool = False,
        control: DmaCtl = _PLAIN,
    ) -> None:
        """Trigger a DMA as `dma` does, without waiting for its end."""
        registers = self._control
        registers.set64(Reg.DMA_BUS_ADDR_LO, address)
        registers.set64(Reg.DMA_LEN, length | DMASTATUS_CLEAR << 32)  # DMASTATUS comes next
        registers[Reg.DMA_OFFSET] = offset
        word = _TRIGGER | int(control)
        word |= _WRITE_MEMORY if write_memory else 0
        word |= _NO_SNOOP if no_snoop else 0
        registers[Reg.DMACTL] = word

    def end_dma(self, before: int) -> DmaRecord:
        """Wait for a DMA that was triggered at a count of ``before``; see `dma`."""
        count = self.await_dma(before)
        return self.record(count, self._status())

    def await_dma(self, before: int) -> int:
        """As `end_dma`; return the DMA's sequence number, and leave its record unread."""
        due = (before + 1) & 0xFFFFFFFF
        if (count := self.dma_count) != due:  # it counts a DMA when it has ended
            self._wait_for_dma()
            count = self.dma_count
        if count != due:
            raise ExerciserError(
                f"{self.pci.address}: one DMA was triggered, and DMA_COUNT went from {before} "
                f"to {count}"
            )
        return count

    def record(self, sequence: int, status: DmaStatus | None = None) -> DmaRecord:
        """Return the record of one DMA; 1 is the first since the reset.

        ``status`` is DMASTATUS as the driver saw it; left out, it is the recorded one.
        `ExerciserError` when the device has no such record (any more).
        """
        ext = self._extension
        ext[Ext.RECORD_SELECT] = sequence
        fields = _RECORD.unpack(ext.block(Ext.RECORD_SEQUENCE, _RECORD.size))
        used = ext.get64(Ext.RECORD_USED_LO) if self._tells_used else None
        # Without a record, RECORD_SEQUENCE reads 0.
        if not sequence or fields[0] != sequence:
            raise ExerciserError(f"{self.pci.address}: DMA {sequence} left no record")
        try:
            return self._record(fields, status, used)
        except ValueError as error:
            raise ExerciserError(f"{self.pci.address}: record {sequence}: {error}") from error

    @property
    def crc32(self) -> int:
        """CRC-32 of the bytes that the last DMA moved (as zlib.crc32)."""
        return self._extension[Ext.DMA_CRC32]

    @property
    def dma_count(self) -> int:
        """DMAs triggered since the reset, the refused ones too."""
        return self._extension[Ext.DMA_COUNT]

    @property
    def last_dma(self) -> tuple[int, int]:
        """`dma_count` and `crc32` in one access."""
        both = self._extension.get64(Ext.DMA_CRC32)  # DMA_COUNT comes next
        return both >> 32, both & 0xFFFF_FFFF

    @property
    def bus_master(self) -> bool:
        """Whether the command register permits DMA and MSI-X."""
        return self.pci.bus_master

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self.driver.set_bus_master(on)

    @property
    def driver(self) -> FunctionDriver:
        """The kernel driver's file for this function; `ExerciserError` when it is not bound."""
        if self._driver is None or self._driver.closed:
            node = self.pci.driver_node()
            if node is None:
                raise ExerciserError(f"{self.pci.address} is not bound to the module dma_rehearsal")
            self._driver = DriverFunction(node)
        return self._driver

    @property
    def vectors(self) -> int:
        """Vectors that the kernel granted: of MSI-X, or the one of INTx."""
        return self.driver.info().vectors

    def eventfd(self, vector: int) -> Interrupt:
        """Have a vector signal an eventfd; raises what `DriverFunction.set_eventfd` does."""
        return Interrupt(self.driver, vector)

    def intx(self) -> IntxInterrupt:
        """Have INTx signal an eventfd, in place of MSI-X, until it is closed.

        `IOBusyError` while a vector has an eventfd, or another open file has chosen how the
        function interrupts; `IOUnsupportedError` without INTx.
        """
        return IntxInterrupt(self.driver, self._control)

    @contextmanager
    def expects(
        self, *reasons: DmaReason, count: int | None = None
    ) -> Iterator[list[RefusedRequest]]:
        """Expect refusals within the ``with``, of any function; see `refusals.expects`."""
        with refusals.expects(*reasons, count=count) as refused:
            yield refused
            # Writes are posted, and the platform has another socket: wait for their arrival.
            self.read_register(Reg.DMASTATUS)

    def interrupt(self, vector: int) -> None:
        """Make the device send a vector's MSI-X message."""
        if not 0 <= vector <= MSICTL_VECTOR:
            raise ExerciserError(f"vector {vector} is above MSICTL's {MSICTL_VECTOR}")
        self._control[Reg.MSICTL] = vector | MSICTL_TRIGGER

    def reset(self) -> None:
        """Reset the function (FLR); registers, buffer and records start anew."""
        self.pci.reset()

    def close(self) -> None:
        """Unmap the BARs and close the driver's file, which takes all eventfds away."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None
        self.pci.close()

    def _status(self) -> DmaStatus:
        value = self._control[Reg.DMASTATUS]
        try:
            return DmaStatus(value & DMASTATUS_CODE)
        except ValueError as error:
            raise ExerciserError(f"{self.pci.address}: DMASTATUS reads {value:#x}") from error

    def _record(
        self, fields: tuple[int, ...], status: DmaStatus | None, used: int | None
    ) -> DmaRecord:
        (sequence, found, reason, address, length, moved, direction) = fields[:7]
        (attributes, offset, crc32, segments) = fields[7:]
        recorded = DmaStatus(found)
        return DmaRecord(
            status=recorded if status is None else status,
            recorded_status=recorded,
            sequence=sequence,
            reason=DmaReason(reason),
            address=address,
            length=length,
            moved=moved,
            direction=DmaDirection(direction),
            attributes=DmaAttribute(attributes),
            offset=offset,
            crc32=crc32,
            segments=segments,
            used=used,
        )

    def _wait_for_dma(self) -> None:
        deadline = time.monotonic() + DMA_TIMEOUT
        while (control := self._control[Reg.DMACTL]) & _TRIGGER_MASK:
            if control == 0xFFFFFFFF:
                raise ExerciserError(f"{self.pci.address}: reads give all ones: the device is gone")
            if time.monotonic() > deadline:
                raise ExerciserError(
                    f"{self.pci.address}: DMACTL still reads {control:#x} after {DMA_TIMEOUT} s"
                )
