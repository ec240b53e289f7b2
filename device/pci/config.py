"""PCI configuration space: a type 0 header, a capability list, and what software may write."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Protocol

CONFIG_SIZE = 4096
_CAPABILITIES_START = 0x40
_CAPABILITIES_END = 0x100


class Header(IntEnum):
    """PCI Local Bus 3.0, section 6.1: offsets of the type 0 header."""

    VENDOR_ID = 0x00
    DEVICE_ID = 0x02
    COMMAND = 0x04
    STATUS = 0x06
    REVISION_ID = 0x08
    CLASS_CODE = 0x09
    HEADER_TYPE = 0x0E
    BAR0 = 0x10
    SUBSYSTEM_VENDOR_ID = 0x2C
    SUBSYSTEM_ID = 0x2E
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


class Status(IntFlag):
    """Status register, section 6.2.3."""

    INTERRUPT = 1 << 3
    CAPABILITIES_LIST = 1 << 4


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the function says it is. ``class_code`` has 24 bits: class, subclass, interface."""

    vendor_id: int
    device_id: int
    class_code: int
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    revision_id: int = 0
    interrupt_pin: int = 0


class Capability(Protocol):
    """One entry of the capability list. Offsets are from its own start."""

    id: int

    def body(self) -> bytes:
        """Return the bytes behind the two of the list header, at reset."""

    def write_mask(self) -> bytes:
        """Return which bits of ``body`` software may write."""

    def written(self, config: ConfigSpace, start: int) -> None:
        """Act on a write to the capability that begins at ``start``."""


class ConfigSpace:
    """4096 bytes, of which software may change the bits of a mask."""

    def __init__(self, identity: Identity, bar_sizes: dict[int, int]) -> None:
        self._data = bytearray(CONFIG_SIZE)
        self._mask = bytearray(CONFIG_SIZE)
        self._capabilities: list[tuple[int, int, Capability]] = []
        self._next = _CAPABILITIES_START
        self._last_pointer = int(Header.CAPABILITIES)
        self.on_command: Callable[[], None] = lambda: None
        self._put(Header.VENDOR_ID, "<HH", identity.vendor_id, identity.device_id)
        self._put(Header.REVISION_ID, "<I", identity.revision_id | identity.class_code << 8)
        self._put(
            Header.SUBSYSTEM_VENDOR_ID,
            "<HH",
            identity.subsystem_vendor_id,
            identity.subsystem_id,
        )
        self._put(Header.INTERRUPT_PIN, "<B", identity.interrupt_pin)
        self._allow(Header.COMMAND, "<H", _COMMAND_WRITABLE)
        self._allow(Header.INTERRUPT_LINE, "<B", 0xFF)
        for index, size in bar_sizes.items():
            if not 16 <= size < 1 << 32 or size & (size - 1):
                raise ValueError(f"BAR{index}: {size} is no power of two from 16 below 2**32")
            # 32-bit, not prefetchable: the type bits are 0. Software sizes it by writing ones.
            self._allow(Header.BAR0 + 4 * index, "<I", -size & 0xFFFF_FFFF)

    def _put(self, offset: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, self._data, offset, *values)

    def _allow(self, offset: int, layout: str, mask: int) -> None:
        struct.pack_into(layout, self._mask, offset, mask)

    def add(self, capability: Capability) -> int:
        """Append a capability to the list; return its offset. ValueError when it does not fit."""
        body = capability.body()
        start, end = self._next, self._next + 2 + len(body)
        if end > _CAPABILITIES_END:
            raise ValueError("the capability list is longer than 192 bytes")
        self._data[self._last_pointer] = start
        self._data[start] = capability.id
        self._data[start + 2 : end] = body
        self._mask[start + 2 : end] = capability.write_mask()
        self._capabilities.append((start, end, capability))
        self._last_pointer = start + 1
        self._next = end + 3 & ~3
        self.set_status(Status.CAPABILITIES_LIST, True)
        return start

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

    def set_status(self, bit: Status, on: bool) -> None:
        """Set or clear a bit of the status register."""
        value = self.word(Header.STATUS)
        self.set_word(Header.STATUS, value | bit if on else value & ~int(bit))

    @property
    def command(self) -> Command:
        """Return the command register."""
        return Command(self.word(Header.COMMAND) & _COMMAND_WRITABLE)

    @property
    def bus_master(self) -> bool:
        """Return whether the function may access memory and send MSIs."""
        return bool(self.word(Header.COMMAND) & Command.BUS_MASTER)

    def write(self, offset: int, data: bytes) -> None:
        """Store the bits that software may write, then let whom they belong to act."""
        for position, value in enumerate(data, offset):
            mask = self._mask[position]
            self._data[position] = self._data[position] & ~mask | value & mask
        end = offset + len(data)
        if offset < Header.STATUS and end > Header.COMMAND:
            self.on_command()
        for start, stop, capability in self._capabilities:
            if offset < stop and end > start:
                capability.written(self, start)

    def reset(self) -> None:
        """Take every writable register back to its reset value (BARs, command, capabilities)."""
        for offset in range(_CAPABILITIES_START):
            self._data[offset] &= ~self._mask[offset] & 0xFF
        for start, end, capability in self._capabilities:
            self._data[start + 2 : end] = capability.body()
        self.set_status(Status.INTERRUPT, False)
