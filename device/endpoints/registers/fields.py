# SPDX-License-Identifier: Apache-2.0
"""The accesses of software to a register's bits, and registers by their fields."""

from __future__ import annotations

from enum import Enum
from typing import Any, Generic, TypeVar, overload

_BITS_MAX = 64  # of a register
T = TypeVar("T", bound=int)


class Access(Enum):
    """The accesses of software to a register's bits."""

    RO = "read only"
    RW = "read and write"
    W1C = "write 1 to clear"
    W1S = "write 1 to set"
    RC = "read to clear, and a write changes nothing"
    WO = "write only, reads 0"
    SELF_CLEARING = "a write of 1 is a command, reads 0"


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
        if not largest or largest & (largest + 1) or self.mask >> _BITS_MAX or reset > largest:
            raise ValueError(f"a field of mask {mask:#x} with reset value {reset:#x}")
        if issubclass(type, Enum):
            values = {int(each.value) for each in type}
            if len(values) <= largest or not values.issuperset(range(largest + 1)):
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
    """One bit. ValueError for a mask of several."""

    def __init__(self, mask: int, access: Access = Access.RW, *, reset: bool = False) -> None:
        if int(mask).bit_count() > 1:
            raise ValueError(
                f"Flag({mask:#x}): {int(mask).bit_count()} bits, and a flag is one; declare a "
                "Field, or a Flag for each bit"
            )
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
