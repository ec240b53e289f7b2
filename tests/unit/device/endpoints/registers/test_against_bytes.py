# SPDX-License-Identifier: Apache-2.0
"""Random registers under random accesses, against a model that knows bytes and bits alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.registers import (
    Access,
    Declared,
    Field,
    Fields,
    Register,
    RegisterArray,
    RegisterFile,
    Trigger,
)

_STORED = (Access.RO, Access.RW)
_COMMANDS = (Access.WO, Access.SELF_CLEARING)


@dataclass
class Byte:
    """One byte of a register: the access of each of its bits, from bit 0 on, and its value."""

    register: Modelled
    number: int
    accesses: list[Access]
    value: int = 0

    def write(self, data: int) -> int:
        """Store a byte; return what the side effect sees of it."""
        seen = 0
        for bit, access in enumerate(self.accesses):
            one, mask = data >> bit & 1, 1 << bit
            if access is Access.RW or (access is Access.W1S and one):
                self.value = self.value & ~mask | one << bit
            if access is Access.W1C and one:
                self.value &= ~mask
            if access not in (Access.RO, Access.RC):
                seen |= one << bit
        return seen

    def unwritten(self) -> int:
        """Return what the side effect of a write in part sees of this byte."""
        return sum(
            self.value & 1 << bit for bit, access in enumerate(self.accesses) if access is Access.RW
        )

    def read(self, shown: int) -> int:
        """Return what software reads where the register shows a byte; clear what that clears."""
        for bit, access in enumerate(self.accesses):
            if access is Access.RC:
                self.value &= ~(shown & 1 << bit)
        return shown


@dataclass
class Modelled:
    """One register, or one element of an array."""

    name: str
    index: int | None
    trigger: Trigger
    reads: int | None  # the value that its side effect gives
    acts: bool  # has a side effect of writes
    hidden: bool = False
    bytes: list[Byte] = field(default_factory=list)

    @property
    def writable(self) -> bool:
        return any(
            access not in (Access.RO, Access.RC) for each in self.bytes for access in each.accesses
        )


class Model:
    """The bytes of a BAR, by their offsets, and the calls that they make."""

    def __init__(self) -> None:
        self.at: dict[int, Byte] = {}
        self.calls: list[tuple[str, int | None, int | None]] = []

    def _registers(self, offset: int, length: int) -> list[Modelled]:
        found: list[Modelled] = []
        for place in range(offset, offset + length):
            byte = self.at.get(place)
            if byte is not None and byte.register not in found:
                found.append(byte.register)
        return found

    def read(self, offset: int, length: int, *, peek: bool = False) -> bytes:
        shown: dict[str, list[int]] = {}
        for each in self._registers(offset, length):
            values = [byte.value for byte in each.bytes]
            if each.hidden:
                values = [0] * len(values)
            elif each.reads is not None and not peek:
                self.calls.append((each.name, each.index, None))
                values = [*each.reads.to_bytes(len(values), "little")]
            shown[f"{each.name}{each.index}"] = values
        data = []
        for place in range(offset, offset + length):
            byte = self.at.get(place)
            if byte is None:
                data.append(0)
                continue
            value = shown[f"{byte.register.name}{byte.register.index}"][byte.number]
            data.append(value if peek else byte.read(value))
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        for each in self._registers(offset, len(data)):
            value, written = 0, set()
            for byte in each.bytes:
                place = next(where for where, what in self.at.items() if what is byte)
                if offset <= place < offset + len(data):
                    written.add(byte.number)
                    seen = byte.write(data[place - offset])
                else:
                    seen = byte.unwritten()
                value |= seen << 8 * byte.number
            called = {
                Trigger.EVERY: True,
                Trigger.FIRST: 0 in written,
                Trigger.LAST: len(each.bytes) - 1 in written,
            }
            if each.acts and each.writable and called[each.trigger]:
                self.calls.append((each.name, each.index, value))


@dataclass
class Drawn:
    """A register, or an array where ``count`` is not None."""

    size: int
    trigger: Trigger
    accesses: list[Access]  # of each half of a byte
    reads: int | None
    acts: bool
    offset: int = 0
    count: int | None = None
    stride: int = 0

    @property
    def whole(self) -> bool:
        """Return whether one access is that of all bits."""
        return len(set(self.accesses)) == 1

    def elements(self) -> list[tuple[int | None, int]]:
        """Return the index and the offset of each element."""
        if self.count is None:
            return [(None, self.offset)]
        return [(index, self.offset + index * self.stride) for index in range(self.count)]

    def declared(self, offset: IntEnum, calls: list[Any]) -> Declared:
        """Return the declaration, whose side effects add to ``calls``."""
        array = self.count is not None
        options: dict[str, Any] = {
            "access": self.accesses[0] if self.whole else _fields(self.accesses),
            "read": _reader(calls, offset.name, self.reads, array=array),
            "write": _writer(calls, offset.name, array=array) if self.acts else None,
            "bits": 8 * self.size,
            "trigger": self.trigger,
        }
        if self.count is None:
            return Register(offset, **options)
        return RegisterArray(offset, self.count, self.stride, **options)


@st.composite
def registers(draw: Any) -> Drawn:
    """Draw a register, without its place."""
    size = draw(st.sampled_from((1, 2, 4, 8)))
    trigger = draw(st.sampled_from(Trigger))
    kinds = tuple(Access) if trigger is Trigger.EVERY else _STORED
    access = draw(st.sampled_from(kinds))
    mixed = st.lists(st.sampled_from(kinds), min_size=2 * size, max_size=2 * size)
    return Drawn(
        size,
        trigger,
        draw(st.just([access] * 2 * size) | mixed),
        draw(st.none() | st.integers(0, (1 << 8 * size) - 1)),
        draw(st.booleans()),
    )


@st.composite
def layouts(draw: Any) -> list[Drawn]:
    """Draw groups of registers; those of one group that repeats are interleaved arrays."""
    found: list[Drawn] = []
    offset = draw(st.integers(0, 3))
    for group in draw(st.lists(st.lists(registers(), min_size=1, max_size=3), min_size=1)):
        count = draw(st.none() | st.integers(1, 3))
        start = offset = -(-offset // 4) * 4 if count else offset
        for each in group:
            alignment = min(each.size, 4)
            each.offset = -(-offset // alignment) * alignment + alignment * draw(st.integers(0, 1))
            each.count = count
            offset = each.offset + each.size
        stride = -(-(offset - start) // 4) * 4
        for each in group:
            each.stride = stride
        offset = start + stride * count if count else offset
        found += group
    return found


def built(layout: list[Drawn]) -> tuple[RegisterFile, Model, list[Any]]:
    """Return the registers, the model, and the list of calls of the registers' side effects."""
    model = Model()
    calls: list[Any] = []
    places = {f"R{at}": each.offset for at, each in enumerate(layout)}
    offsets: Any = IntEnum("Reg", places)  # type: ignore[misc]
    for each, offset in zip(layout, offsets, strict=True):
        hidden = each.whole and each.accesses[0] in _COMMANDS
        for index, place in each.elements():
            one = Modelled(offset.name, index, each.trigger, each.reads, each.acts, hidden)
            for number in range(each.size):
                low, high = each.accesses[2 * number : 2 * number + 2]
                one.bytes.append(Byte(one, number, [low] * 4 + [high] * 4))
                model.at[place + number] = one.bytes[-1]
    file = RegisterFile(
        each.declared(offset, calls) for each, offset in zip(layout, offsets, strict=True)
    )
    return file, model, calls


def _fields(accesses: list[Access]) -> type[Fields]:
    fields = {f"f{at}": Field(0xF << 4 * at, access) for at, access in enumerate(accesses)}
    return type("Drawn", (Fields,), fields)


def _reader(calls: list[Any], name: str, value: int | None, *, array: bool) -> Any:
    if value is None:
        return None

    def read(index: int | None = None) -> int:
        calls.append((name, index, None))
        assert (index is not None) == array
        return value

    return read


def _writer(calls: list[Any], name: str, *, array: bool) -> Callable[..., None]:
    def write(*arguments: int) -> None:
        index = arguments[0] if array else None
        calls.append((name, index, arguments[-1]))
        assert len(arguments) == 1 + array

    return write


_PLACES = st.tuples(st.integers(0, 20), st.integers(-2, 9))  # a register, bytes from its start
_WHOLE = st.tuples(st.integers(0, 20), st.just(0))
_LENGTHS = st.sampled_from((1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 4, 8))
_BYTES = st.integers(0, 255) | st.sampled_from((0xFF, 0xF0, 0x0F))
_DATA = _LENGTHS.flatmap(lambda length: st.lists(_BYTES, min_size=length, max_size=length))
_ACTIONS = st.one_of(
    *(st.tuples(st.just("write"), places, _DATA.map(bytes)) for places in (_PLACES, _WHOLE)),
    *(st.tuples(st.just("read"), places, _LENGTHS) for places in (_PLACES, _WHOLE)),
    st.tuples(st.just("peek"), _PLACES, _LENGTHS),
    st.tuples(st.just("store"), _WHOLE, st.integers(0, (1 << 64) - 1) | st.just((1 << 64) - 1)),
)


@given(layouts(), st.lists(_ACTIONS, min_size=30, max_size=60))
def test_registers_are_their_bytes(
    layout: list[Drawn], actions: list[tuple[str, tuple[int, int], Any]]
) -> None:
    file, model, calls = built(layout)
    starts = [place for place, byte in model.at.items() if byte.number == 0]
    for action, (number, delta), argument in actions:
        place = max(0, starts[number % len(starts)] + delta)
        if action == "write":
            file.write(place, argument)
            model.write(place, argument)
        elif action == "store":
            file[place] = argument
            for byte in model.at[place].register.bytes:
                byte.value = argument >> 8 * byte.number & 0xFF
        else:
            found = getattr(file, action)(place, argument)
            assert found == model.read(place, argument, peek=action == "peek")
        assert calls == model.calls
        stored = {where: file[where] for where in starts}
        assert stored == {
            where: sum(byte.value << 8 * byte.number for byte in model.at[where].register.bytes)
            for where in starts
        }


@given(layouts(), st.integers(0, (1 << 64) - 1))
def test_saved_values_come_back_without_a_side_effect(layout: list[Drawn], value: int) -> None:
    file, _, calls = built(layout)
    for place in file.values:
        file[place] = value
    ends = [place + each.size for each in layout for _, place in each.elements()]
    first, end = min(file.values), max(ends)
    before, values = len(calls), dict(file.values)
    assert file.has(first, end - first)
    saved = file.saved(first, end - first)
    file.reset()
    file.load(first, saved)
    assert (file.values, len(calls)) == (values, before)
