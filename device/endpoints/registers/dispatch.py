# SPDX-License-Identifier: Apache-2.0
"""The registers of one BAR: their values, and the dispatch of accesses to them.

Theory of operation. An access that is exactly one register is one look-up by its offset, for that
is what drivers do. Any other access is taken apart into the registers that it touches, in the order
of their addresses, and each of them has one access:

- A read reads each register whole, once. Bits that a read clears are cleared in the bytes that were
  read, if they read 1.
- A write stores its bytes, and the other bytes keep their value. Bits of bytes that are not written
  are 0 where a 1 would act. The side effect is called once, with the merged value, if the write
  has the byte that the register's `Trigger` names.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.registers.declarations import (
    COMMANDS,
    Declared,
    RegisterArray,
    Trigger,
    check_call,
    checked_registers,
)
from dma_rehearsal.device.endpoints.registers.fields import Access

_WIDE = 8  # bytes: the widest access of a CPU's, which is often two registers


@dataclass(frozen=True, slots=True)
class _Slot:
    """A register, or an element of an array, as it is dispatched to."""

    offset: int
    end: int
    size: int  # bytes
    name: str
    ones: int
    reset: int
    stored: int  # bits that a write stores
    cleared: int  # bits that a 1 clears
    raised: int  # bits that a 1 sets, or that a write stores
    taken: int  # bits of which a write does anything
    read_clears: int
    hidden: bool  # reads 0
    plain: bool  # reads what is stored, and nothing else happens
    trigger: Trigger
    reader: Callable[[], int] | None
    writer: Callable[[int], None] | None

    def calls(self, first: int, last: int) -> bool:
        """Return whether a write of the bytes from ``first`` to before ``last`` has its effect."""
        if self.writer is None or not self.taken:
            return False
        if self.trigger is Trigger.EVERY:
            return True
        return first <= self.offset if self.trigger is Trigger.FIRST else last >= self.end


def _slots(declared: Declared, reader: Any, writer: Any) -> Iterator[_Slot]:
    """Yield the slots of a declaration, whose side effects are given."""
    element = declared.element
    masks = element.masks()
    stored, cleared, raised = masks[Access.RW], masks[Access.W1C], masks[Access.W1S]
    taken = stored | cleared | raised | masks[Access.WO] | masks[Access.SELF_CLEARING]
    hidden = element.access in COMMANDS
    array = isinstance(declared, RegisterArray)
    for index, (name, offset, size) in enumerate(declared.places()):
        yield _Slot(
            offset,
            offset + size,
            size,
            name,
            element.ones,
            element.reset_value(),
            stored,
            cleared,
            raised | stored,
            taken,
            masks[Access.RC],
            hidden,
            plain=not hidden and reader is None and not masks[Access.RC],
            trigger=element.trigger,
            reader=partial(reader, index) if array and reader is not None else reader,
            writer=partial(writer, index) if array and writer is not None else writer,
        )


class RegisterFile(BarContent):
    """The registers of one BAR of ``size`` bytes, with the values that they store.

    ``owner`` has the side effects as methods; ``prefix`` comes before a register's name in theirs,
    as in ``write_<prefix>_<register>``.
    """

    def __init__(
        self,
        registers: Iterable[Declared] = (),
        owner: object = None,
        size: int = 1 << 32,
        prefix: str = "",
    ) -> None:
        self._size = size
        self._reserved: list[tuple[int, int, str]] = []  # first, end, what is there
        self._slots: dict[int, _Slot] = {}
        self._starts: list[int] = []  # of the slots, in order
        self._arrays: dict[int, RegisterArray] = {}
        self._added: dict[str, tuple[_Slot, object]] = {}  # the first of each, by its name
        self.values: dict[int, int] = {}
        self.add(registers, owner, prefix)

    @property
    def names(self) -> Iterable[str]:
        """Return the names of the registers as side effects have them, in lower case."""
        return self._added.keys()

    def add(self, registers: Iterable[Declared], owner: object, prefix: str = "") -> None:
        """Add registers whose side effects are methods of ``owner``.

        ValueError for an offset that is taken, off its alignment or behind the BAR's end; for a
        name that is taken; for a width, reset value, mask, stride or count that cannot be; for
        fields that overlap; and for a side effect with other parameters than an access gives.
        """
        for declared in checked_registers(_where(owner, "registers"), registers):
            self._add(declared, owner, prefix)

    def _add(self, declared: Declared, owner: object, prefix: str) -> None:
        name = declared.offset.name.lower()
        called = f"{prefix}_{name}" if prefix else name
        where = _where(owner, name.upper())
        declared.check(where)
        if called in self._added:
            raise ValueError(
                f"{where} at {int(declared.offset):#x}: the name is taken; give it another"
            )
        reader = _side_effect(owner, where, f"read_{called}", declared, declared.read)
        writer = _side_effect(owner, where, f"write_{called}", declared, declared.write)
        for slot in _slots(declared, reader, writer):
            self._check_place(_where(owner, slot.name), slot.offset, slot.end)
            self._slots[slot.offset] = slot
            insort(self._starts, slot.offset)
            self.values[slot.offset] = slot.reset
            self._added.setdefault(called, (slot, owner))
        if isinstance(declared, RegisterArray):
            self._arrays[int(declared.offset)] = declared

    def _check_place(self, where: str, offset: int, end: int) -> None:
        for taken in self._touched(offset, end):
            raise ValueError(
                f"{where} at {offset:#x}: {taken.name} is there; give it another offset"
            )
        if not 0 <= offset <= end <= self._size:
            raise ValueError(
                f"{where} at {offset:#x}: the BAR has {self._size:#x} bytes; make it larger "
                "(RegisterBar's size), or the offset smaller"
            )
        for first, last, what in self._reserved:
            if first < end and offset < last:
                raise ValueError(f"{where} at {offset:#x}: {what} is there; put one elsewhere")

    def reserve(self, offset: int, length: int, what: str) -> None:
        """Keep later registers out of a range in which something else shows."""
        self._reserved.append((offset, offset + length, what))

    def owned_by(self, name: str, owner: object) -> bool:
        """Return whether ``owner`` has the side effects of a register, by its name in theirs."""
        return name in self._added and self._added[name][1] is owner

    def calls(self, kind: str, name: str) -> bool:
        """Return whether an access ("read" or "write") can call the register's side effect."""
        if name not in self._added:
            return False
        slot, _ = self._added[name]
        return not slot.hidden if kind == "read" else bool(slot.taken)

    def acts(self, offset: int, length: int) -> bool:
        """Return whether a write of ``length`` bytes at ``offset`` has a side effect."""
        end = offset + length
        return any(slot.calls(offset, end) for slot in self._touched(offset, end))

    def name(self, offset: int) -> str:
        """Return the name of the register that holds the byte at ``offset``, "" for none."""
        return next((slot.name for slot in self._touched(offset, offset + 1)), "")

    def _touched(self, offset: int, end: int) -> Iterator[_Slot]:
        """Yield the registers that have a byte in a range, in order."""
        starts, slots = self._starts, self._slots
        at = bisect_right(starts, offset) - 1
        if at < 0 or slots[starts[at]].end <= offset:
            at += 1
        while at < len(starts) and starts[at] < end:
            yield slots[starts[at]]
            at += 1

    def reset(self) -> None:
        """Give every register its reset value."""
        self.values = {offset: each.reset for offset, each in self._slots.items()}

    # For authors: the stored values, without side effects.

    def __getitem__(self, place: int | tuple[int, int]) -> int:
        """Return the stored value of a register, or of an element of an array: offset, index.

        LookupError where there is none.
        """
        if isinstance(place, tuple):
            place = self._element(*place)
        try:
            return self.values[place]
        except KeyError:
            raise _missing(place) from None

    def __setitem__(self, place: int | tuple[int, int], value: int) -> None:
        """Store a value, of which the register takes as many bits as it has."""
        if isinstance(place, tuple):
            place = self._element(*place)
        try:
            self.values[place] = value & self._slots[place].ones
        except KeyError:
            raise _missing(place) from None
        except TypeError:
            raise TypeError(
                f"{self._slots[place].name}: {value!r} is stored; a register takes an int"
            ) from None

    def _element(self, offset: int, index: int) -> int:
        array = self._arrays.get(offset)
        if array is None:
            raise LookupError(f"no array of registers begins at {offset:#x}; declare RegisterArray")
        if not 0 <= index < array.count:
            raise IndexError(
                f"{array.offset.name}[{index}]: the array has {array.count} registers, from 0 on"
            )
        return offset + index * array.stride

    def pair(self, low: int, high: int) -> int:
        """Return the 64-bit value of two registers."""
        try:
            return self.values[low] | self.values[high] << 32
        except KeyError as missing:
            raise _missing(missing.args[0]) from None

    def set_pair(self, low: int, high: int, value: int) -> None:
        """Store a 64-bit value in two registers."""
        self[low] = value
        self[high] = value >> 32

    # A migration's.

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range begins and ends with a register, and cuts none.

        Bytes between registers are a part of it, and are 0.
        """
        touched = [*self._touched(offset, offset + length)]
        return bool(touched) and (touched[0].offset, touched[-1].end) == (offset, offset + length)

    def saved(self, offset: int, length: int) -> bytes:
        """Return the stored values of a range that it ``has``, without side effects."""
        return self._in_parts(offset, length, lambda slot, _: self.values[slot.offset])

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, without side effects."""
        for slot in self._touched(offset, offset + len(data)):
            found = data[slot.offset - offset : slot.end - offset]
            self.values[slot.offset] = int.from_bytes(found, "little")

    # Accesses of software.

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``; a register in part is read whole, once."""
        slot = self._slots.get(offset)
        if slot is not None and slot.size == length:
            value = self.values[offset] if slot.plain else self._read(slot, slot.ones)
            return value.to_bytes(length, "little")
        if slot is not None and slot.size < length <= _WIDE:
            size = slot.size
            return self.read(offset, size) + self.read(offset + size, length - size)
        return self._in_parts(offset, length, self._read)

    def peek(self, offset: int, length: int) -> bytes:
        """Return what is stored there, as ``read`` does, without side effects."""
        return self._in_parts(
            offset, length, lambda slot, _: 0 if slot.hidden else self.values[slot.offset]
        )

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data``, the lower register first. This module has the rules for parts."""
        slot = self._slots.get(offset)
        if slot is not None and slot.size == len(data):
            if slot.taken:
                self._store(slot, value := int.from_bytes(data, "little"))
                if slot.writer is not None:
                    slot.writer(value & slot.taken)
            return
        if slot is not None and slot.size < len(data) <= _WIDE:
            self.write(offset, data[: slot.size])
            self.write(offset + slot.size, data[slot.size :])
            return
        end = offset + len(data)
        for slot in self._touched(offset, end):
            if not slot.taken:
                continue
            merged = bytearray(
                (self.values[slot.offset] & slot.stored).to_bytes(slot.size, "little")
            )
            first, last = max(offset, slot.offset), min(end, slot.end)
            merged[first - slot.offset : last - slot.offset] = data[first - offset : last - offset]
            self._store(slot, value := int.from_bytes(merged, "little"))
            if slot.writer is not None and slot.calls(offset, end):
                slot.writer(value & slot.taken)

    def _store(self, slot: _Slot, value: int) -> None:
        """Store the bits of a write, and clear and set those on which a 1 acts."""
        kept = self.values[slot.offset] & ~slot.stored & ~(value & slot.cleared)
        self.values[slot.offset] = kept | value & slot.raised

    def _read(self, slot: _Slot, seen: int) -> int:
        """Return what a register reads; ``seen`` are the bits of the bytes that are read."""
        if slot.hidden:
            return 0
        value = self.values[slot.offset] if slot.reader is None else slot.reader()
        try:
            value &= slot.ones
        except TypeError:
            raise TypeError(
                f"the read side effect of {slot.name} returned {value!r}; return an int"
            ) from None
        if slot.read_clears:
            self.values[slot.offset] &= ~(slot.read_clears & value & seen)
        return value

    def _in_parts(self, offset: int, length: int, read: Callable[[_Slot, int], int]) -> bytes:
        """Return bytes of registers, each of which is asked for once; 0 between them."""
        data = bytearray(length)
        end = offset + length
        for slot in self._touched(offset, end):
            first, last = max(offset, slot.offset), min(end, slot.end)
            seen = (1 << 8 * (last - first)) - 1 << 8 * (first - slot.offset)
            value = read(slot, seen).to_bytes(slot.size, "little")
            data[first - offset : last - offset] = value[first - slot.offset : last - slot.offset]
        return bytes(data)


def _side_effect(owner: object, where: str, method: str, declared: Declared, otherwise: Any) -> Any:
    """Return the owner's method, or what the declaration has; its parameters fit."""
    found = getattr(owner, method, otherwise)
    check_call(where, method, declared, found)
    return found


def _where(owner: object, name: str) -> str:
    return name if owner is None else f"{type(owner).__name__}: {name}"


def _missing(offset: int) -> LookupError:
    return LookupError(f"no register at {offset:#x}; declare one, or look at the offset")
