"""Declared 32-bit registers, and the dispatch of accesses of any width and alignment.

An author lists registers as a specification's table does. A side effect is a method of the owner,
named after the register: ``read_dmastatus() -> int``, ``write_dmactl(value)``. Addresses without a
register read 0 and ignore writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum

_WORD = 0xFFFF_FFFF


class Access(Enum):
    """What software may do to a register's bits."""

    RO = "read only"
    RW = "read and write"
    W1C = "write 1 to clear"
    WO = "write only, reads 0"


@dataclass(frozen=True, slots=True)
class Register:
    """One register. ``mask`` says which bits software may write (or clear).

    ``read`` gives the value where no method of the owner is named after the register.
    """

    offset: IntEnum
    access: Access = Access.RO
    reset: int = 0
    mask: int = _WORD
    read: Callable[[], int] | None = None


class RegisterFile:
    """The registers of one BAR, with the values that they store."""

    def __init__(self, registers: Iterable[Register], owner: object) -> None:
        self._registers = {int(register.offset): register for register in registers}
        self.values: dict[int, int] = {}
        self._readers: dict[int, Callable[[], int]] = {}
        self._writers: dict[int, Callable[[int], None]] = {}
        for offset, register in self._registers.items():
            name = register.offset.name.lower()
            if reader := getattr(owner, f"read_{name}", register.read):
                self._readers[offset] = reader
            if writer := getattr(owner, f"write_{name}", None):
                self._writers[offset] = writer
        self.reset()

    def add_array(self, start: IntEnum, count: int) -> None:
        """Add ``count`` plain registers, read and write, from ``start`` on."""
        for offset in range(start, start + 4 * count, 4):
            self._registers[offset] = Register(start, Access.RW)
        self.reset()

    def reset(self) -> None:
        """Give every register its reset value."""
        self.values = {offset: each.reset for offset, each in self._registers.items()}

    def __getitem__(self, offset: int) -> int:
        return self.values[offset]

    def __setitem__(self, offset: int, value: int) -> None:
        self.values[offset] = value & _WORD

    def pair(self, low: int, high: int) -> int:
        """Return the 64-bit value of two registers."""
        return self.values[low] | self.values[high] << 32

    def set_pair(self, low: int, high: int, value: int) -> None:
        """Store a 64-bit value in two registers."""
        self[low] = value
        self[high] = value >> 32

    def _read_word(self, offset: int) -> int:
        register = self._registers.get(offset)
        if register is None or register.access is Access.WO:
            return 0
        reader = self._readers.get(offset)
        return (reader() if reader else self.values[offset]) & _WORD

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``; a register in part is read whole, once."""
        first = offset & ~3
        data = b"".join(
            self._read_word(word).to_bytes(4, "little") for word in range(first, offset + length, 4)
        )
        return data[offset - first : offset - first + length]

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data``. Bytes of a register that are not written keep their value (W1C: 0)."""
        end = offset + len(data)
        for word in range(offset & ~3, end, 4):
            register = self._registers.get(word)
            if register is None or register.access is Access.RO:
                continue
            keeps = register.access is Access.RW
            merged = bytearray((self.values[word] if keeps else 0).to_bytes(4, "little"))
            low, high = max(offset, word), min(end, word + 4)
            merged[low - word : high - word] = data[low - offset : high - offset]
            self._write_word(register, word, int.from_bytes(merged, "little"))

    def _write_word(self, register: Register, word: int, value: int) -> None:
        value &= register.mask
        if register.access is Access.RW:
            self.values[word] = self.values[word] & ~register.mask | value
        elif register.access is Access.W1C:
            self.values[word] &= ~value
        writer = self._writers.get(word)
        if writer is not None:
            writer(value)
