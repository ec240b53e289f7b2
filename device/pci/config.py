# SPDX-License-Identifier: Apache-2.0
"""PCI configuration space: a type 0 header, a capability list, and what software may write."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import ClassVar

from dma_rehearsal.device.pci.base_addresses import BARS, BaseAddress, BaseAddresses

CONFIG_SIZE = 4096
_CAPABILITIES_START = 0x40
_CAPABILITIES_END = 0x100
_EXTENDED_HEADER_SIZE = 4
_PCI_EXPRESS = 0x10  # capability id


class Header(IntEnum):
    """PCI Local Bus 3.0, section 6.1: offsets of the type 0 header."""

    VENDOR_ID = 0x00
    DEVICE_ID = 0x02
    COMMAND = 0x04
    STATUS = 0x06
    REVISION_ID = 0x08
    CLASS_CODE = 0x09
    CACHE_LINE_SIZE = 0x0C
    HEADER_TYPE = 0x0E
    BAR0 = 0x10
    SUBSYSTEM_VENDOR_ID = 0x2C
    SUBSYSTEM_ID = 0x2E
    ROM = 0x30
    CAPABILITIES = 0x34
    INTERRUPT_LINE = 0x3C
    INTERRUPT_PIN = 0x3D


class Command(IntFlag):
    """Command register, section 6.2.2."""

    IO_SPACE = 1 << 0
    MEMORY_SPACE = 1 << 1
    BUS_MASTER = 1 << 2
    PARITY_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    INTX_DISABLE = 1 << 10


_COMMAND_WRITABLE = (
    Command.MEMORY_SPACE
    | Command.BUS_MASTER
    | Command.PARITY_RESPONSE
    | Command.SERR_ENABLE
    | Command.INTX_DISABLE
)
# For what every DMA asks: an operation on an IntFlag costs as much as ten on an int.
_COMMAND, _MEMORY_SPACE = int(Header.COMMAND), int(Command.MEMORY_SPACE)
_BAR_BYTES = {*range(Header.BAR0, Header.BAR0 + 4 * BARS), *range(Header.ROM, Header.ROM + 4)}
_BUS_MASTER = int(Command.BUS_MASTER)


class Status(IntFlag):
    """Status register, section 6.2.3; PCI Express Base 5.0, section 7.5.1.1.4."""

    IMMEDIATE_READINESS = 1 << 0
    INTERRUPT = 1 << 3
    CAPABILITIES_LIST = 1 << 4


class PowerState(Enum):
    """The power states of a function (PCI Bus Power Management Interface 1.2, section 5.4)."""

    D0 = "D0"
    D3HOT = "D3hot"


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a function. ``class_code`` has 24 bits: class, subclass, interface."""

    vendor_id: int
    device_id: int
    class_code: int
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    revision_id: int = 0
    interrupt_pin: int = 0


@dataclass(frozen=True, slots=True)
class ExpressBits:
    """Bits that a capability adds to the PCI Express capability: Device Capabilities 2, Control 2.

    ``control`` are those of Device Control 2 that software may write.
    """

    capabilities: int = 0
    control: int = 0


class Capability:
    """One entry of the capability list. Offsets are from its own start.

    All of the byte strings that a subclass gives are as long as ``body``. A capability that is
    declared in a class is shared by its functions, so it keeps no state of its own.
    """

    id: int
    listed: ClassVar[bool] = True  # False: all that it has is ``express``
    express = ExpressBits()

    def extend(self, bits: ExpressBits) -> None:
        """Take bits of another capability; of PCI Express only."""
        raise NotImplementedError

    def body(self) -> bytes:
        """Return the bytes behind the list header, at reset."""
        raise NotImplementedError

    def write_mask(self) -> bytes:
        """Return which bits of ``body`` software may write."""
        return bytes(len(self.body()))

    def clear_mask(self) -> bytes:
        """Return which bits of ``body`` software clears by writing 1 (RW1C)."""
        return bytes(len(self.body()))

    def sticky(self) -> bool:
        """Return whether the registers outlive resets (ROS, RWS, RW1CS; section 7.4)."""
        return False

    def kept_by_flr(self) -> bytes:
        """Return which bits of ``body`` a function level reset leaves (Base 5.0, 6.6.2)."""
        return bytes(len(self.body()))

    def written(self, config: ConfigSpace, start: int) -> None:
        """Act on a write to the capability that begins at ``start``."""


class ExtendedCapability(Capability):
    """One entry of the extended list, from 0x100 on (PCI Express Base 5.0, section 7.6)."""

    version: int = 1


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a capability lies: its header at ``start``, its body up to ``end``."""

    start: int
    body: int
    end: int
    capability: Capability


class ConfigSpace:
    """4096 bytes, of which software may change the bits of a mask."""

    def __init__(
        self,
        identity: Identity,
        bars: Mapping[int, BaseAddress],
        command_at_reset: int = 0,
    ) -> None:
        self._command_at_reset = command_at_reset
        self._data = bytearray(CONFIG_SIZE)
        self._mask = bytearray(CONFIG_SIZE)
        self._clear = bytearray(CONFIG_SIZE)
        self._slots: list[_Slot] = []
        self._bars = BaseAddresses(bars)
        self._next = _CAPABILITIES_START
        self._last_pointer = int(Header.CAPABILITIES)
        self._next_extended = _CAPABILITIES_END
        self._last_extended: int | None = None
        self.on_command: Callable[[], None] = lambda: None
        self._asleep = self._stopped = self._silent = False
        self._put(Header.COMMAND, "<H", command_at_reset)
        self._put(Header.VENDOR_ID, "<HH", identity.vendor_id, identity.device_id)
        self._put(Header.REVISION_ID, "<I", identity.revision_id | identity.class_code << 8)
        self._put(
            Header.SUBSYSTEM_VENDOR_ID,
            "<HH",
            identity.subsystem_vendor_id,
            identity.subsystem_id,
        )
        self._put(Header.INTERRUPT_PIN, "<B", identity.interrupt_pin)
        self._command_bits = _COMMAND_WRITABLE | (Command.IO_SPACE if self._bars.has_io else 0)
        self._allow(Header.COMMAND, "<H", self._command_bits)
        # PCI Express Base 5.0, 7.5.1.1.7: it can be written, and has no effect.
        self._allow(Header.CACHE_LINE_SIZE, "<B", 0xFF)
        self._allow(Header.INTERRUPT_LINE, "<B", 0xFF)
        self._fit_bars()
        self._place_bars()

    def _put(self, offset: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, self._data, offset, *values)

    def _allow(self, offset: int, layout: str, mask: int) -> None:
        struct.pack_into(layout, self._mask, offset, mask)

    def add(self, capability: Capability) -> int:
        """Append a capability to its list; return its offset. ValueError when it does not fit.

        Of one that is only bits of the PCI Express capability, that one's offset is returned.
        """
        if capability.express != ExpressBits():
            start = self._extend_express(capability.express)
            if not capability.listed:
                return start
        if isinstance(capability, ExtendedCapability):
            return self._add_extended(capability)
        start = self._next
        self._store(_Slot(start, start + 2, start + 2 + len(capability.body()), capability))
        self._data[self._last_pointer] = start
        self._data[start] = capability.id
        self._last_pointer = start + 1
        self._next = self._slots[-1].end + 3 & ~3
        self.set_status(Status.CAPABILITIES_LIST, True)
        return start

    def _add_extended(self, capability: ExtendedCapability) -> int:
        start = self._next_extended
        body = start + _EXTENDED_HEADER_SIZE
        self._store(_Slot(start, body, body + len(capability.body()), capability))
        self._put(start, "<I", capability.id | capability.version << 16)
        if self._last_extended is not None:
            header = self.dword(self._last_extended) | start << 20
            self._put(self._last_extended, "<I", header)
        self._last_extended = start
        self._next_extended = self._slots[-1].end + 3 & ~3
        return start

    def _extend_express(self, bits: ExpressBits) -> int:
        for slot in self._slots:
            if slot.capability.id == _PCI_EXPRESS and slot.start < _CAPABILITIES_END:
                slot.capability.extend(bits)
                self._fill(slot)
                return slot.start
        raise ValueError("the capability needs a PCI Express capability before it")

    def _store(self, slot: _Slot) -> None:
        extended = isinstance(slot.capability, ExtendedCapability)
        limit = CONFIG_SIZE if extended else _CAPABILITIES_END
        if slot.end > limit:
            raise ValueError(f"the capability list is longer than {limit:#x} allows")
        self._fill(slot)
        self._slots.append(slot)

    def _fill(self, slot: _Slot) -> None:
        """Put a capability's registers there, as at power-on."""
        self._data[slot.body : slot.end] = slot.capability.body()
        self._mask[slot.body : slot.end] = slot.capability.write_mask()
        self._clear[slot.body : slot.end] = slot.capability.clear_mask()

    def start_of(self, kind: type[Capability]) -> int | None:
        """Return where the capability of a kind begins; None when there is none."""
        return next((each.start for each in self._slots if isinstance(each.capability, kind)), None)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return bytes(self._data[offset : offset + length])

    def word(self, offset: int) -> int:
        """Return the 16 bits at ``offset``."""
        value: int = struct.unpack_from("<H", self._data, offset)[0]
        return value

    def set_word(self, offset: int, value: int) -> None:
        """Store 16 bits past the masks, as the device itself does."""
        self._put(offset, "<H", value & 0xFFFF)

    def dword(self, offset: int) -> int:
        """Return the 32 bits at ``offset``."""
        value: int = struct.unpack_from("<I", self._data, offset)[0]
        return value

    def set_dword(self, offset: int, value: int) -> None:
        """Store 32 bits past the masks, as the device itself does."""
        self._put(offset, "<I", value & 0xFFFF_FFFF)

    def set_status(self, bit: Status, on: bool) -> None:
        """Set or clear a bit of the status register."""
        value = self.word(Header.STATUS)
        self.set_word(Header.STATUS, value | bit if on else value & ~int(bit))

    @property
    def command(self) -> Command:
        """Return the command register."""
        return Command(self.word(Header.COMMAND) & self._command_bits)

    @property
    def bus_master(self) -> bool:
        """Return whether the function may access memory and send MSIs."""
        return not self._silent and bool(self._data[_COMMAND] & _BUS_MASTER)

    @property
    def claims_memory(self) -> bool:
        """Return whether BARs in memory answer: Memory Space is set, and it is not in D3hot."""
        return not self._asleep and bool(self._data[_COMMAND] & _MEMORY_SPACE)

    def answers(self, region: int) -> bool:
        """Return whether a BAR, or the expansion ROM (6), answers accesses.

        The command register enables its space, the ROM's own register the ROM, and the function is
        not in D3hot.
        """
        return region in self._bars.answering

    @property
    def asleep(self) -> bool:
        """Return whether it is in D3hot: only configuration space answers, nothing is sent."""
        return self._asleep

    @asleep.setter
    def asleep(self, on: bool) -> None:
        self._asleep = on
        self._silent = on or self._stopped
        self._place_bars()

    @property
    def power_state(self) -> PowerState:
        """Return the power state: D0, or D3hot when it is asleep."""
        return PowerState.D3HOT if self._asleep else PowerState.D0

    @property
    def silent(self) -> bool:
        """Return whether it is ``asleep`` or ``stopped``."""
        return self._silent

    @property
    def stopped(self) -> bool:
        """Whether a migration holds the function (VFIO's STOP): it answers, and sends nothing.

        No reset ends it.
        """
        return self._stopped

    @stopped.setter
    def stopped(self, on: bool) -> None:
        self._stopped = on
        self._silent = on or self._asleep

    def _fit_bars(self) -> None:
        """Have the registers of the BARs hold no bit of an address below the sizes in force."""
        for offset, value, mask in self._bars.fields():
            end = offset + len(mask)
            held = int.from_bytes(self._data[offset:end], "little")
            held = held & int.from_bytes(mask, "little") | int.from_bytes(value, "little")
            self._data[offset:end] = held.to_bytes(len(mask), "little")
            self._mask[offset:end] = mask

    def bar_size(self, index: int) -> int:
        """Return the size in force of a BAR, in bytes; 0 where there is none."""
        return self._bars.size(index)

    def resize_bar(self, index: int, size: int) -> None:
        """Give a BAR another size, as Resizable BAR does; a reset takes it back."""
        if size != self._bars.size(index):
            self._bars.resize(index, size)
            self._fit_bars()
            self._place_bars()

    def _place_bars(self) -> None:
        """Note which BARs answer, and where they are."""
        self._bars.place(self._data, 0 if self._asleep else self._data[_COMMAND])

    def bar_address(self, index: int) -> int | None:
        """Return where a BAR lies; None while it is not placed, or does not answer."""
        return self._bars.address(index)

    def bar_at(self, address: int, length: int) -> tuple[int, int] | None:
        """Return the BAR in memory (6: the ROM) with a byte of a range, and the offset in it."""
        return self._bars.at(address, length)

    def overlaps_bar(self, address: int, length: int) -> bool:
        """Return whether a byte of the range is in one of the function's own BARs."""
        return self._bars.at(address, length) is not None

    def write(self, offset: int, data: bytes) -> None:
        """Store the bits that software may write, then let whom they belong to act."""
        for position, value in enumerate(data, offset):
            mask, clear = self._mask[position], self._clear[position]
            kept = self._data[position] & ~mask & ~(value & clear)
            self._data[position] = kept | value & mask
        end = offset + len(data)
        if offset < _CAPABILITIES_START:
            self._place_bars()
        if offset < Header.STATUS and end > Header.COMMAND:
            self.on_command()
        for slot in self._slots:
            if offset < slot.end and end > slot.start:
                slot.capability.written(self, slot.start)

    def reset(self, *, flr: bool = False) -> None:
        """Take every writable register back to its reset value (BARs, command, capabilities).

        What is sticky stays: only power-on takes it back (PCI Express Base 5.0, section 7.4), and
        a function is powered on when it is made. A function level reset leaves what belongs to the
        link (``Capability.kept_by_flr``), and the BARs, too. QEMU
        quirk: it shows the guest BARs of its own, which that reset does not touch; the guest,
        restoring, finds them as they were, so they are never written here again.
        """
        self._bars.reset()
        self._fit_bars()
        for offset in range(_CAPABILITIES_START):
            if not (flr and offset in _BAR_BYTES):
                self._data[offset] &= ~self._mask[offset] & 0xFF
        self._put(Header.COMMAND, "<H", self._command_at_reset)
        for slot in self._slots:
            if slot.capability.sticky():
                continue
            at_reset = slot.capability.body()
            if flr:
                at_reset = bytes(
                    now & kept | initial & ~kept
                    for now, kept, initial in zip(
                        self._data[slot.body : slot.end],
                        slot.capability.kept_by_flr(),
                        at_reset,
                        strict=True,
                    )
                )
            self._data[slot.body : slot.end] = at_reset
        self.asleep = False  # and the BARs answer nowhere
        self.set_status(Status.INTERRUPT, False)
