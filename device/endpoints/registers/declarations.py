# SPDX-License-Identifier: Apache-2.0
"""Declarations of registers and of arrays of registers, and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import Enum, IntEnum
from typing import Any

from dma_rehearsal.device.endpoints.registers.fields import Access, Fields

_WIDTHS = (8, 16, 32, 64)
_ALIGNMENT_MAX = 4  # bytes: a 64-bit register may lie where its two halves could
COMMANDS = (Access.WO, Access.SELF_CLEARING)
_STORED = (Access.RO, Access.RW)
NOT_AWAITED = (
    "is a coroutine function, and nothing awaits it; make it a plain method, which starts a "
    "coroutine: self.start(...)"
)


class Trigger(Enum):
    """The writes that call a register's side effect, when software writes it in parts."""

    EVERY = "each access that writes a byte of it"
    FIRST = "an access that writes its first byte, the least significant"
    LAST = "an access that writes its last byte, the most significant"


@dataclass(frozen=True, slots=True)
class Register:
    """One register: an access for all its bits, or `Fields` that have one each.

    ``mask`` says which bits software may write (or clear, or set); without it all of them. ``bits``
    is the width: 8, 16, 32 or 64. ``read`` gives the value, and ``write`` acts after one, where no
    method of the owner is named after the register. ``trigger`` says which writes in part call it;
    other triggers than EVERY need bits that are all read only, or read and write.
    """

    offset: IntEnum
    access: Access | type[Fields] = Access.RO
    reset: int = 0
    mask: int | None = None
    read: Callable[[], int] | None = None
    write: Callable[[int], None] | None = None
    _: KW_ONLY
    bits: int = 32
    trigger: Trigger = Trigger.EVERY

    @property
    def element(self) -> Register:
        """Return the declaration of its bits: itself."""
        return self

    def places(self) -> Iterator[tuple[str, int, int]]:
        """Yield the register's name, offset and bytes."""
        yield self.offset.name, int(self.offset), self.bits // 8

    def masks(self) -> dict[Access, int]:
        """Return the bits of each access."""
        found = dict.fromkeys(Access, 0)
        if isinstance(self.access, Access):
            found[self.access] = self.ones if self.mask is None else self.mask
            return found
        for field in self.access.fields().values():
            found[field.access] |= field.mask
        return found

    def reset_value(self) -> int:
        """Return the value after a reset."""
        if isinstance(self.access, Access):
            return self.reset
        return self.reset | sum(field.reset for field in self.access.fields().values())

    @property
    def ones(self) -> int:
        """Return the value that has all of its bits set."""
        return (1 << self.bits) - 1

    def check(self, where: str) -> None:
        """Raise ValueError, which begins with ``where``, for what no register can be.

        TypeError for a reset value or a mask that is not an int.
        """
        if self.bits not in _WIDTHS:
            raise ValueError(f"{where}: {self.bits} bits; make it 8, 16, 32 or 64")
        mask = self.ones if self.mask is None else self.mask
        for what, value in ("reset value", self.reset), ("mask", mask):
            if not isinstance(value, int):
                raise TypeError(f"{where}: {what} {value!r}; give an int")
            if not 0 <= value <= self.ones:
                raise ValueError(f"{where}: {what} {value:#x}; a register has {self.bits} bits")
        if not isinstance(self.access, Access):
            self._check_fields(where, self.access)
        alignment = min(self.bits // 8, _ALIGNMENT_MAX)
        if self.offset % alignment:
            raise ValueError(
                f"{where} at {int(self.offset):#x}: make the offset a multiple of {alignment}"
            )
        if self.trigger is not Trigger.EVERY and any(
            mask for access, mask in self.masks().items() if access not in _STORED
        ):
            raise ValueError(
                f"{where}: trigger {self.trigger.name} would lose the bits of a part that is not "
                "stored; make them Access.RW, or the trigger EVERY"
            )

    def _check_fields(self, where: str, kind: object) -> None:
        if not (isinstance(kind, type) and issubclass(kind, Fields)):
            raise ValueError(
                f"{where}: access {kind!r}; give it an Access, or a class of fields (not an object)"
            )
        if not (fields := kind.fields()):
            raise ValueError(f"{where}: {kind.__name__} has no fields; declare a Field or a Flag")
        if self.mask is not None:
            raise ValueError(
                f"{where}: mask {self.mask:#x} beside {kind.__name__}, whose fields have masks; "
                "leave mask out"
            )
        before: dict[str, int] = {}
        for name, field in fields.items():
            for other, mask in before.items():
                if field.mask & mask:
                    raise ValueError(
                        f"{where}: the fields {other} and {name} of {kind.__name__} share the bits "
                        f"{field.mask & mask:#x}; change one's mask"
                    )
            before[name] = field.mask
            if field.mask > self.ones:
                raise ValueError(
                    f"{where}: field {name} of mask {field.mask:#x}; a register has {self.bits} "
                    "bits; declare more bits, or a smaller mask"
                )


@dataclass(frozen=True, slots=True)
class RegisterArray:
    """``count`` registers, the first at ``offset`` and each ``stride`` bytes behind the one before.

    Arrays may be interleaved: other registers lie between the elements. A side effect has the index
    of its element, from 0: ``write_<name>(index, value)``, ``read_<name>(index)``. The rest is as
    in `Register`, for each element.
    """

    offset: IntEnum
    count: int
    stride: int
    access: Access | type[Fields] = Access.RO
    reset: int = 0
    mask: int | None = None
    read: Callable[[int], int] | None = None
    write: Callable[[int, int], None] | None = None
    _: KW_ONLY
    bits: int = 32
    trigger: Trigger = Trigger.EVERY

    @property
    def element(self) -> Register:
        """Return the declaration of the bits of an element."""
        return Register(
            *(self.offset, self.access, self.reset, self.mask),
            bits=self.bits,
            trigger=self.trigger,
        )

    def places(self) -> Iterator[tuple[str, int, int]]:
        """Yield the name (as ``TAIL[3]``), the offset and the bytes of each element."""
        for index in range(self.count):
            offset = self.offset + index * self.stride
            yield f"{self.offset.name}[{index}]", offset, self.bits // 8

    def check(self, where: str) -> None:
        """Raise ValueError, which begins with ``where``, for what no array can be."""
        self.element.check(where)
        if self.count < 1:
            raise ValueError(f"{where}: an array of {self.count} registers; declare at least one")
        size = self.bits // 8
        alignment = min(size, _ALIGNMENT_MAX)
        if self.stride < size or self.stride % alignment:
            raise ValueError(
                f"{where}: a stride of {self.stride} bytes for registers of {size}; make it at "
                f"least {size}, and a multiple of {alignment}"
            )


Declared = Register | RegisterArray


def checked_registers(where: str, registers: Iterable[Declared]) -> list[Declared]:
    """Return the declarations. ValueError, which begins with ``where``, for anything else."""
    if isinstance(registers, Register | RegisterArray):
        raise ValueError(
            f"{where}: one register where a list is needed; write a comma behind it: "
            "(Register(...),)"
        )
    found = [*registers]
    for each in found:
        if not isinstance(each, Register | RegisterArray):
            raise ValueError(f"{where}: {each!r}; declare a Register or a RegisterArray")
        if not isinstance(each.offset, IntEnum):
            raise ValueError(
                f"{where}: one at {each.offset!r}; declare the offsets in an IntEnum, whose "
                "members name the registers"
            )
    return found


def check_call(where: str, method: str, declared: Declared, side_effect: Any) -> None:
    """Raise ValueError, which begins with ``where``, for parameters that no access gives.

    ``method`` is the name of the side effect. One that is not callable is not looked at.
    """
    try:
        signature = inspect.signature(side_effect)
    except (TypeError, ValueError):
        return  # nothing to call, or a function that is not written in Python
    if inspect.iscoroutinefunction(side_effect):
        raise ValueError(f"{where}: {method} {NOT_AWAITED}")
    given = ["index"] if isinstance(declared, RegisterArray) else []
    if method.startswith("write_"):
        given.append("value")
    try:
        signature.bind(*given)
    except TypeError:
        raise ValueError(
            f"{where}: {method} has the parameters {signature}, and an access calls "
            f"{method}({', '.join(given)}); give it these"
        ) from None
