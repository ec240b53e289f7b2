# SPDX-License-Identifier: Apache-2.0
"""PCI functions through sysfs: found by id, BARs mapped, configuration space by offset.

Linux's Documentation/PCI/sysfs-pci.rst describes the files.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final, Self

from dma_rehearsal.guest.drivers.pci_bars import Bar, PciError, Ports
from dma_rehearsal.guest.iobuffer.base.closing import Closing

DEVICES: Final = Path("/sys/bus/pci/devices")
DRIVERS_PROBE: Final = Path("/sys/bus/pci/drivers_probe")
INTERRUPTS: Final = Path("/sys/kernel/irq")

# PCI Local Bus Specification 3.0, 6.2: configuration header
_COMMAND: Final = 0x04
_COMMAND_MEMORY: Final = 1 << 1
_COMMAND_BUS_MASTER: Final = 1 << 2
_COMMAND_INTERRUPT_DISABLE: Final = 1 << 10
_STATUS: Final = 0x06
_STATUS_INTERRUPT: Final = 1 << 3
_CAPABILITIES: Final = 0x34
# 6.7 and 6.8.2: a capability's identity, the next one's place; MSI-X's Message Control
_MSIX: Final = 0x11
_MSIX_TABLE_SIZE: Final = 0x7FF


# 6.2.5.1: base address registers
_BAR0: Final = 0x10
_BARS: Final = 6
_BAR_IO: Final = 1 << 0
_BAR_IO_FLAGS: Final = 0x3
_BAR_MEMORY_FLAGS: Final = 0xF
_BAR_WIDTH: Final = 0x6
_BAR_64_BITS: Final = 0x4
_EXTENDED: Final = 0x100
_EXTENDED_MAX: Final = (0x1000 - _EXTENDED) // 4


class PciFunction(Closing):
    """One function, by its folder in `DEVICES`; a context manager that unmaps the BARs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bars: dict[int, Bar] = {}
        self._others: list[Bar | Ports] = []

    @classmethod
    def find(cls, vendor: int, device: int, index: int = 0) -> Self:
        """Return the ``index``-th function with this id, in the order of addresses.

        Raises `PciError` when there are fewer.
        """
        found = [
            folder
            for folder in sorted(DEVICES.iterdir() if DEVICES.is_dir() else ())
            if int((folder / "vendor").read_text(), 16) == vendor
            and int((folder / "device").read_text(), 16) == device
        ]
        if index >= len(found):
            raise PciError(
                f"no PCI function {vendor:04x}:{device:04x} number {index}: {len(found)} found"
            )
        return cls(found[index])

    def sibling(self, number: int) -> Self:
        """Return function ``number`` (0 to 7) of the same device; `PciError` when it is absent."""
        folder = self.folder.with_name(f"{self.address.rpartition('.')[0]}.{number}")
        if not folder.exists():
            raise PciError(f"{self.address}: its device has no function {number}")
        return type(self)(folder)

    @property
    def address(self) -> str:
        """Domain, bus, device and function, as 0000:00:02.0."""
        return self.folder.name

    @property
    def requester_id(self) -> int:
        """Bus, device and function number in 16 bits, as its DMA has them (PCI Express 2.2.6.2)."""
        _, bus, place = self.address.split(":")
        device, _, number = place.partition(".")
        return int(bus, 16) << 8 | int(device, 16) << 3 | int(number)

    def enable(self) -> None:
        """Turn memory decoding on, which no kernel driver has done yet."""
        if not self._command() & _COMMAND_MEMORY:
            self._write("enable", "1")

    def bar(self, number: int) -> Bar:
        """Map a BAR, or return it when it is mapped; `PciError` when it cannot be mapped."""
        if number not in self._bars:
            try:
                self._bars[number] = Bar(self._map_bar(number))
            except (OSError, ValueError) as error:
                raise PciError(f"{self.address}: cannot map BAR{number}: {error}") from error
        return self._bars[number]

    def _map_bar(self, number: int) -> mmap.mmap:
        return self._mapped(number, 0, 0)

    def _mapped(self, number: int, offset: int, length: int) -> mmap.mmap:
        fd = os.open(self.folder / f"resource{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return mmap.mmap(fd, length or os.fstat(fd).st_size, offset=offset)
        finally:
            os.close(fd)

    def window(self, number: int, offset: int, length: int) -> Bar:
        """Map ``length`` bytes at ``offset`` of a large BAR: whole pages; `PciError` as `bar`.

        It is unmapped with the function.
        """
        try:
            mapped = Bar(self._mapped(number, offset, length))
        except (OSError, ValueError) as error:
            raise PciError(
                f"{self.address}: cannot map {length:#x} bytes at {offset:#x} of BAR{number}: "
                f"{error}"
            ) from error
        self._others.append(mapped)
        return mapped

    def ports(self, number: int) -> Ports:
        """Open a BAR in I/O space, which is closed with the function; `PciError` without one."""
        try:
            opened = Ports(self.folder / f"resource{number}")
        except OSError as error:
            raise PciError(f"{self.address}: cannot open BAR{number}: {error}") from error
        self._others.append(opened)
        return opened

    def rom(self) -> bytes:
        """Return the images of the expansion ROM; `PciError` when there are none.

        Memory decoding must be on.
        """
        path = self.folder / "rom"
        try:
            path.write_text("1")  # Linux enables the ROM, and shows it
            try:
                return path.read_bytes()
            finally:
                path.write_text("0")
        except OSError as error:
            raise PciError(f"{path}: {error.strerror}") from error

    @property
    def bus_master(self) -> bool:
        """Whether the function may do DMA: bit 2 of the command register."""
        return bool(self._command() & _COMMAND_BUS_MASTER)

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self._set_command(_COMMAND_BUS_MASTER, on)

    @property
    def interrupt_disable(self) -> bool:
        """Whether INTx is held back: bit 10 of the command register. The driver writes it, too."""
        return bool(self._command() & _COMMAND_INTERRUPT_DISABLE)

    @interrupt_disable.setter
    def interrupt_disable(self, on: bool) -> None:
        self._set_command(_COMMAND_INTERRUPT_DISABLE, on)

    @property
    def interrupt_status(self) -> bool:
        """Whether the function wants INTx, held back or not: bit 3 of the status register."""
        return bool(int.from_bytes(self.config_read(_STATUS, 2), "little") & _STATUS_INTERRUPT)

    def bar_address(self, number: int) -> int:
        """Return the bus address of a BAR of 32 or 64 bits; 0 when it has none yet.

        `PciError` past the sixth register, or for the upper half of a 64-bit BAR.
        """
        if not 0 <= number < _BARS:
            raise PciError(f"{self.address}: BAR{number}: 0 to {_BARS - 1}")
        registers = struct.unpack(f"<{_BARS}I", self.config_read(_BAR0, 4 * _BARS))
        index = 0
        while index < number:  # only the first registers tell which later ones are upper halves
            index += 2 if _has_64_bits(registers[index]) else 1
        if index > number:
            raise PciError(f"{self.address}: BAR{number} is the upper half of BAR{number - 1}")
        value = registers[number]
        if value & _BAR_IO:
            return int(value) & ~_BAR_IO_FLAGS
        if not _has_64_bits(value):
            return int(value) & ~_BAR_MEMORY_FLAGS
        if number + 1 == _BARS:
            raise PciError(f"{self.address}: BAR{number} says 64 bits, and is the last register")
        return int(value) & ~_BAR_MEMORY_FLAGS | int(registers[number + 1]) << 32

    def capability(self, identity: int) -> int:
        """The place of a capability in configuration space, 0 without one.

        Raises `PciError` when the list has no end.
        """
        place = self.config_read(_CAPABILITIES, 1)[0] & ~3
        for _ in range(48):  # a bound, because a broken list may be a ring
            if not place:
                return 0
            found, following = self.config_read(place, 2)
            if found == identity:
                return place
            place = following & ~3
        raise PciError(f"{self.address}: the list of capabilities has no end")

    def extended_capability(self, identity: int) -> int:
        """The place of an extended capability, 0 without one; `PciError` as `capability`."""
        place = _EXTENDED
        for _ in range(_EXTENDED_MAX):
            header = int.from_bytes(self.config_read(place, 4), "little")
            if header & 0xFFFF == identity:
                return place
            place = header >> 20 & ~3
            if place < _EXTENDED:
                return 0
        raise PciError(f"{self.address}: the list of extended capabilities has no end")

    @property
    def msix_vectors(self) -> int:
        """The number of vectors in the MSI-X capability, 0 without the capability."""
        place = self.capability(_MSIX)
        if not place:
            return 0
        control = int.from_bytes(self.config_read(place + 2, 2), "little")
        return (control & _MSIX_TABLE_SIZE) + 1

    def line_interrupts(self) -> int:
        """Return the number of interrupts of the INTx line since boot, of all functions on it.

        Raises `PciError` when the kernel does not report it (Linux, sysfs-kernel-irq).
        """
        try:
            number = (self.folder / "irq").read_text().strip()
            counts = (INTERRUPTS / number / "per_cpu_count").read_text()
            return sum(int(count) for count in counts.split(","))
        except (OSError, ValueError) as error:
            raise PciError(f"{self.address}: interrupts of its line: {error}") from error

    def reset(self) -> None:
        """Reset the function (FLR where it has that); the kernel keeps its configuration."""
        self._write("reset", "1")

    def config_read(self, offset: int, length: int) -> bytes:
        """Read configuration space; `PciError` when fewer bytes come."""
        with (self.folder / "config").open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise PciError(f"{self.address}: {len(data)} of {length} bytes at config {offset:#x}")
        return data

    def config_write(self, offset: int, data: bytes) -> None:
        """Write configuration space."""
        with (self.folder / "config").open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, offset)

    def bind(self, driver: str = "dma_rehearsal") -> None:
        """Bind the function to a kernel driver, whatever its id; `PciError` when that fails.

        A function with this driver keeps it. A function with another driver is not taken
        away.
        """
        if self._driver() is None:
            self._write("driver_override", driver)
            try:
                DRIVERS_PROBE.write_text(self.address)
            except OSError as error:
                raise PciError(f"{self.address}: {driver}: {error.strerror}") from error
        if self._driver() != driver:
            raise PciError(f"{self.address}: its driver is {self._driver()}, not {driver}")

    def _driver(self) -> str | None:
        link = self.folder / "driver"
        return link.readlink().name if link.is_symlink() else None

    def driver_node(self) -> Path | None:
        """The device file of the module dma_rehearsal for this function, None when unbound."""
        misc = self.folder / "misc"
        for entry in misc.iterdir() if misc.is_dir() else ():
            return Path("/dev") / entry.name
        return None

    def close(self) -> None:
        """Unmap the BARs."""
        for number in list(self._bars):
            self._bars[number].close()
            del self._bars[number]
        while self._others:
            self._others.pop().close()

    def _command(self) -> int:
        return int.from_bytes(self.config_read(_COMMAND, 2), "little")

    def _set_command(self, bit: int, on: bool) -> None:
        command = self._command() & ~bit
        self.config_write(_COMMAND, struct.pack("<H", command | on * bit))

    def _write(self, name: str, value: str) -> None:
        try:
            (self.folder / name).write_text(value)
        except OSError as error:
            raise PciError(f"{self.folder / name}: {error.strerror}") from error


def _has_64_bits(register: int) -> bool:
    """Whether a base address register is the lower half of two."""
    return not register & _BAR_IO and register & _BAR_WIDTH == _BAR_64_BITS
