# SPDX-License-Identifier: Apache-2.0
"""Values of a wrong type in a declaration, and bits that no register can have."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Endpoint,
    Field,
    Fields,
    Flag,
    Identity,
    Register,
    RegisterBar,
)

Reg = IntEnum("Reg", {"KICK": 0})
KICK = Register(Reg.KICK)
IDENTITY = Identity(0x1234, 0xE0, 0xFF0000)

DECLARATIONS: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "text as an identity": (
        TypeError,
        r"Wrong.identity: vendor_id '8086'; give an int, such as 0x8086",
        lambda: declared(identity=Identity("8086", 1, 0xFF0000)),  # type: ignore[arg-type]
    ),
    "a pair as an identity": (
        TypeError,
        r"Wrong.identity: \(1, 2\); declare Identity\(vendor_id=...",
        lambda: declared(identity=(1, 2)),
    ),
    "text at reset": (
        TypeError,
        r"Wrong: KICK: reset value 'x'; give an int",
        lambda: declared(Register(Reg.KICK, Access.RW, "x")),  # type: ignore[arg-type]
    ),
    "a mask that is not a number": (
        TypeError,
        r"Wrong: KICK: mask 1.5; give an int",
        lambda: declared(Register(Reg.KICK, Access.RW, mask=1.5)),  # type: ignore[arg-type]
    ),
    "fields that share bits": (
        ValueError,
        r"Wrong: KICK: the fields a and b of Bits share the bits 0x6; change one's mask",
        lambda: declared(Register(Reg.KICK, fields(Field(0x7), Field(0xE)))),
    ),
    "a flag of several bits": (
        ValueError,
        r"Flag\(0x3\): 2 bits, and a flag is one; declare a Field, or a Flag for each bit",
        lambda: fields(Flag(3)),
    ),
}


def fields(*members: Field[Any]) -> type[Fields]:
    """Return a class of fields, whose names are a, b and so on."""
    return type("Bits", (Fields,), dict(zip("abc", members, strict=False)))


def declared(register: Register = KICK, identity: object = IDENTITY) -> type[Endpoint]:
    """Declare a class that has one register."""
    body = {"identity": identity, "bars": {0: RegisterBar((register,))}}
    return type("Wrong", (Endpoint,), body)


@pytest.mark.parametrize(("kind", "words", "declare"), DECLARATIONS.values(), ids=DECLARATIONS)
def test_wrong_declaration(
    kind: type[Exception], words: str, declare: Callable[[], object]
) -> None:
    with pytest.raises(kind, match=words):
        declare()


def test_right_declarations() -> None:
    class Number(IntEnum):
        VENDOR = 0x8086

    right = fields(Field(0x7), Flag(8), Flag(1 << 63))
    declared(Register(Reg.KICK, right, reset=Number.VENDOR, bits=64))
    declared(Register(Reg.KICK, Access.RW, True), Identity(Number.VENDOR, 1, 0xFF0000))
