# SPDX-License-Identifier: Apache-2.0
"""Declared 32-bit registers, their fields, and the dispatch of accesses of any width and alignment.

An author lists registers as a specification's table does, and their fields as its figures do:

    class Control(Fields):
        start = Flag(1 << 0, Access.SELF_CLEARING)
        mode = Field(0x30, type=Mode)

    Register(Reg.CONTROL, Control)

A side effect is a method of the owner, named after the register: ``write_control(value)`` after a
write, ``read_status() -> int`` in place of the stored value. Addresses without a register read 0
and ignore writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Generic, TypeVar, overload

_WORD = 0xFFFF_FFFF
T = TypeVar("T", bound=int)


class Access(Enum):
    """The accesses of software to a register's bits."""

    RO = "read only"
    RW = "read and write"
    W1C = "write 1 to clear"
    WO = "write only, reads 0"
    SELF_CLEARING = "a write of 1 is a command, reads 0"


_COMMANDS = (Access.WO, Access.SELF_CLEARING)


class Field(Generic[T]):
    """Some adjacent bits of a register, as an int or a member of ``type``.

    ``reset`` is the field's own value, not shifted. ValueError when the mask has a hole, or when
    ``type`` lacks a member that software could write: no value of a guest's must raise.
    """

    @overload
    def __init__(
        self: Field[int], mask: int, access: Access = Access.RW, *, reset: int = 0
    ) -> None: ...
    @overload
    def __init__(
        self, mask: int, access: Access = Access.RW, *, type: type[T], reset: int = 0
    ) -> None: ...
    def __init__(
        self, mask: int, access: Access = Access.RW, *, type: Any = int, reset: int = 0
    ) -> None:
        self.mask, self.access, self.type = int(mask), access, type
        self.shift = (self.mask & -self.mask).bit_length() - 1
        largest = self.mask >> self.shift if self.mask > 0 else 0
        if not largest or largest & (largest + 1) or self.mask > _WORD or reset > largest:
            raise ValueError(f"a field of mask {mask:#x} with reset value {reset:#x}")
        if issubclass(type, Enum) and {int(each.value) for each in type} < {*range(largest + 1)}:
            raise ValueError(f"{type.__name__} has no member for each value of mask {mask:#x}")
        self.reset = reset << self.shift

    @overload
    def __get__(self, value: None, owner: type) -> Field[T]: ...
    @overload
    def __get__(self, value: Fields, owner: type) -> T: ...
    def __get__(self, value: Fields | None, owner: type) -> Field[T] | T:
        if value is None:
            return self
        found: T = self.type((value.value & self.mask) >> self.shift)
        return found


class Flag(Field[bool]):
    """One bit."""

    def __init__(self, mask: int, access: Access = Access.RW, *, reset: bool = False) -> None:
        super().__init__(mask, access, type=bool, reset=int(reset))


class Fields:
    """A register's value by its fields, which a subclass declares."""

    def __init__(self, value: int) -> None:
        self.value = value

    @classmethod
    def fields(cls) -> dict[str, Field[Any]]:
        """Return the declared fields by name."""
        names = {name: None for each in reversed(cls.__mro__) for name in vars(each)}
        found = {name: getattr(cls, name) for name in names}
        return {name: each for name, each in found.items() if isinstance(each, Field)}


@dataclass(frozen=True, slots=True)
class Register:
    """One register: an access for all its bits, or `Fields` that have one each.

    ``mask`` says which bits software may write (or clear). ``read`` gives the value, and ``write``
    acts after one, where no method of the owner is named after the register.
    """

    offset: IntEnum
    access: Access | type[Fields] = Access.RO
    reset: int = 0
    mask: int = _WORD
    read: Callable[[], int] | None = None
    write: Callable[[int], None] | None = None

    def masks(self) -> dict[Access, int]:
        """Return the bits of each access. ValueError when two fields share one."""
        found = dict.fromkeys(Access, 0)
        if isinstance(self.access, Access):
            found[self.access] = self.mask
            return found
        taken = 0
        for name, field in self.access.fields().items():
            if taken & field.mask:
                raise ValueError(f"{self.offset.name}: field {name} overlaps another")
            taken |= field.mask
            found[field.access] |= field.mask
        return found

    def reset_value(self) -> int:
        """Return the value after a reset."""
        if isinstance(self.access, Access):
            return self.reset
        return self.reset | sum(field.reset for field in self.access.fields().values())


@dataclass(frozen=True, slots=True)
class _Entry:
    """A register as it is dispatched to."""

    reset: int
    stored: int  # bits that a write stores
    cleared: int  # bits that a 1 clears
    command: int  # bits that are never stored
    hidden: bool  # reads 0
    reader: Callable[[], int] | None = None
    writer: Callable[[int], None] | None = None

    @property
    def writable(self) -> bool:
        """Return whether a write of software does anything."""
        return bool(self.stored | self.cleared | self.command)


def _entry(register: Register, owner: object) -> _Entry:
    name, masks = register.offset.name.lower(), register.masks()
    return _Entry(
        register.reset_value(),
        masks[Access.RW],
        masks[Access.W1C],
        masks[Access.WO] | masks[Access.SELF_CLEARING],
        register.access in _COMMANDS,
        getattr(owner, f"read_{name}", register.read),
        getattr(owner, f"write_{name}", register.write),
    )


class RegisterFile:
    """The registers of one BAR of ``size`` bytes, with the values that they store."""

    def __init__(
        self, registers: Iterable[Register] = (), owner: object = None, size: int = 1 << 32
    ) -> None:
        self._size = size
        self._reserved: list[tuple[int, int, str]] = []  # first, end, what is there
        self._entries: dict[int, _Entry] = {}
        self._added: list[tuple[Register, object]] = []
        self.values: dict[int, int] = {}
        self.names: set[str] = set()
        self.add(registers, owner)

    def add(self, registers: Iterable[Register], owner: object) -> None:
        """Add registers whose side effects are methods of ``owner``.

        ValueError for an offset that is taken, off its 4 bytes or behind the BAR's end; for a name
        that is taken; for a reset value or mask beyond 32 bits; and for fields that overlap.
        """
        for register in registers:
            offset, name = int(register.offset), register.offset.name.lower()
            where = (
                register.offset.name if owner is None else f"{type(owner).__name__}: {name.upper()}"
            )
            self._check_place(where, offset)
            if name in self.names:
                raise ValueError(f"{where} at {offset:#x}: the name is taken; give it another")
            for what, value in ("reset value", register.reset), ("mask", register.mask):
                if not 0 <= value <= _WORD:
                    raise ValueError(f"{where}: {what} {value:#x}; a register has 32 bits")
            self.names.add(name)
            self._added.append((register, owner))
            self._entries[offset] = _entry(register, owner)
            self.values[offset] = self._entries[offset].reset

    def _check_place(self, where: str, offset: int) -> None:
        if offset in self._entries:
            taken = self.name(offset) or "an array"
            raise ValueError(f"{where} at {offset:#x}: {taken} is there; give it another offset")
        if offset % 4:
            raise ValueError(f"{where} at {offset:#x}: make the offset a multiple of 4")
        if not 0 <= offset <= self._size - 4:
            raise ValueError(
                f"{where} at {offset:#x}: the BAR has {self._size:#x} bytes; make it larger "
                "(RegisterBar's size), or the offset smaller"
            )
        for start, end, what in self._reserved:
            if start < offset + 4 and offset < end:
                raise ValueError(f"{where} at {offset:#x}: {what} is there; put one elsewhere")

    def reserve(self, offset: int, length: int, what: str) -> None:
        """Keep later registers out of a range in which something else shows."""
        self._reserved.append((offset, offset + length, what))

    def owned_by(self, name: str, owner: object) -> bool:
        """Return whether ``owner`` has the side effects of a register, named in lower case."""
        return any(
            each.offset.name.lower() == name and whose is owner for each, whose in self._added
        )

    def calls(self, kind: str, name: str) -> bool:
        """Return whether an access ("read" or "write") can call the register's side effect."""
        for register, _ in self._added:
            if register.offset.name.lower() == name:
                entry = self._entries[int(register.offset)]
                if kind == "read":
                    return not entry.hidden
                return entry.writable
        return False

    def acts(self, offset: int, length: int) -> bool:
        """Return whether a write of ``length`` bytes at ``offset`` has a side effect."""
        for word in range(offset & ~3, offset + length, 4):
            entry = self._entries.get(word)
            if entry is not None and entry.writer is not None and entry.writable:
                return True
        return False

    def name(self, offset: int) -> str:
        """Return the name of the register that holds the byte at ``offset``, "" for none."""
        names = {int(each.offset): each.offset.name for each, _ in self._added}
        return names.get(offset & ~3, "")

    def add_array(self, start: IntEnum, count: int) -> None:
        """Add ``count`` plain registers, read and write, from ``start`` on. ValueError as `add`."""
        for offset in range(start, start + 4 * count, 4):
            self._check_place(start.name, offset)
            self._entries[offset] = _Entry(0, _WORD, 0, 0, False)
            self.values[offset] = 0

    def reset(self) -> None:
        """Give every register its reset value."""
        self.values = {offset: each.reset for offset, each in self._entries.items()}

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is whole registers, one beside the other."""
        words = range(offset, offset + length, 4)
        return not length % 4 and all(word in self._entries for word in words)

    def saved(self, offset: int, length: int) -> bytes:
        """Return the stored values of a range that it ``has``, without side effects."""
        words = range(offset, offset + length, 4)
        return b"".join(self.values[word].to_bytes(4, "little") for word in words)

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, without side effects."""
        for start in range(0, len(data), 4):
            self.values[offset + start] = int.from_bytes(data[start : start + 4], "little")

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
        entry = self._entries.get(offset)
        if entry is None or entry.hidden:
            return 0
        return (entry.reader() if entry.reader else self.values[offset]) & _WORD

    def _stored_word(self, offset: int) -> int:
        entry = self._entries.get(offset)
        return 0 if entry is None or entry.hidden else self.values[offset]

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``; a register in part is read whole, once."""
        if length == 4 and not offset & 3:
            return self._read_word(offset).to_bytes(4, "little")
        if length == 8 and not offset & 3:
            low = self._read_word(offset)
            return (low | self._read_word(offset + 4) << 32).to_bytes(8, "little")
        return _bytes_of(self._read_word, offset, length)

    def peek(self, offset: int, length: int) -> bytes:
        """Return what is stored there, as ``read`` does, without side effects."""
        return _bytes_of(self._stored_word, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data``, the lower register first.

        Bits of bytes that are not written keep their value, and are 0 where a 1 would act.
        """
        end = offset + len(data)
        if len(data) == 4 and not offset & 3:
            if (whole := self._entries.get(offset)) is not None:
                self._write_word(whole, offset, int.from_bytes(data, "little"))
            return
        if len(data) == 8 and not offset & 3:
            self.write(offset, data[:4])
            self.write(offset + 4, data[4:])
            return
        for word in range(offset & ~3, end, 4):
            entry = self._entries.get(word)
            if entry is None:
                continue
            merged = bytearray((self.values[word] & entry.stored).to_bytes(4, "little"))
            low, high = max(offset, word), min(end, word + 4)
            merged[low - word : high - word] = data[low - offset : high - offset]
            self._write_word(entry, word, int.from_bytes(merged, "little"))

    def _write_word(self, entry: _Entry, word: int, value: int) -> None:
        if not entry.stored | entry.cleared | entry.command:
            return
        kept = self.values[word] & ~entry.stored & ~(value & entry.cleared)
        self.values[word] = kept | value & entry.stored
        if entry.writer is not None:
            entry.writer(value & (entry.stored | entry.cleared | entry.command))


def _bytes_of(word_at: Callable[[int], int], offset: int, length: int) -> bytes:
    """Return some bytes of words, each of which is asked for once."""
    first = offset & ~3
    words = range(first, offset + length, 4)
    data = b"".join(word_at(word).to_bytes(4, "little") for word in words)
    return data[offset - first : offset - first + length]
