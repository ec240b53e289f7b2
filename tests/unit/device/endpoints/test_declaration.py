# SPDX-License-Identifier: Apache-2.0
"""A declaration that no function can have is refused at once, with class, place and advice."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.bars import MemoryBar, MsixBars, RegisterBar, SharedBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Fields, Flag, Register, RegisterArray
from dma_rehearsal.device.pci.config import Identity
from tests.unit.device.fakes import read32, write32

IDENTITY = Identity(0x1234, 1, 0xFF0000)
Reg = IntEnum("Reg", {"FIRST": 0, "SECOND": 4, "LAST": 0xFFC, "FAR": 0x2000})
Odd = IntEnum("Odd", {"ODD": 6})
Other = IntEnum("Other", {"FIRST": 8, "OVER": 4})


def make(msix: MsixBars | None = None, **declared: Any) -> Endpoint:
    kind = type("Mine", (Endpoint,), {"identity": IDENTITY, **declared})
    made: Endpoint = kind(msix_bars=msix)
    return made


def of(*registers: Register, size: int = 0x1000) -> dict[int, Any]:
    return {0: RegisterBar(registers, size)}


def nothing(self: Endpoint, *_: int) -> int:
    del self
    return 0


class Status(Fields):
    error = Flag(1, Access.W1C)


FIRST = Register(Reg.FIRST, Access.RW)
MEMORY = MemoryBar(0x1000)
RIGHT: dict[str, dict[str, Any]] = {
    "nothing but an identity": {},
    "last register of its BAR": {"bars": of(Register(Reg.LAST, Access.RW))},
    "register in a larger BAR": {"bars": of(Register(Reg.FAR), size=0x4000)},
    "smallest BAR": {"bars": {0: RegisterBar((FIRST,), 16)}},
    "2 GiB": {"bars": {0: RegisterBar((FIRST,), 1 << 31)}},
    "table and bits behind registers": {
        "bars": of(FIRST, size=0x4000),
        "vectors": 4,
        "msix": MsixBars(0, 0, 0x2040, 0x2000),
    },
    "table that ends where the bits begin": {
        "bars": {1: MEMORY},
        "vectors": 4,
        "msix": MsixBars(1, 1, 64),
    },
    "table and bits at one offset of two BARs": {
        "bars": {1: MEMORY, 2: MEMORY},
        "vectors": 4,
        "msix": MsixBars(1, 2, 0),
    },
    "bits before the table": {"bars": {1: MEMORY}, "vectors": 4, "msix": MsixBars(1, 1, 0, 8)},
    "bits that end with their BAR": {
        "bars": {1: MEMORY},
        "vectors": 4,
        "msix": MsixBars(1, 1, 0xFF8),
    },
    "table beside pages that are mapped": {
        "bars": {2: SharedBar(0x2000, ((0x1000, 0x1000),))},
        "vectors": 4,
        "msix": MsixBars(2, 2, 64),
    },
    "names that two BARs share, without a side effect": {
        "bars": {0: RegisterBar((FIRST,)), 1: RegisterBar((Register(Other.FIRST),))}
    },
    "side effects": {
        "bars": of(FIRST, Register(Reg.SECOND, Status)),
        "read_first": nothing,
        "write_first": nothing,
        "write_second": nothing,
    },
    "values that are named as side effects are": {"read_retries": 3, "write_back": True},
    "all vectors": {"vectors": 2048},
    "all messages": {"messages": 32},
}


@pytest.mark.parametrize("declared", RIGHT.values(), ids=RIGHT)
def test_right_declaration(declared: dict[str, Any]) -> None:
    make(**declared)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no identity": ({"identity": None}, r"Mine.identity is missing; declare"),
    "vendor of 17 bits": (
        {"identity": Identity(0x1_0000, 1, 0)},
        r"Mine.identity: vendor_id 0x10000 does not fit into 16 bits",
    ),
    "class of 25 bits": ({"identity": Identity(1, 1, 1 << 24)}, r"Mine.identity: class_code"),
    "pin": ({"identity": Identity(1, 1, 0, interrupt_pin=5)}, r"interrupt_pin 5; 0 means none"),
    "BAR6": ({"bars": {6: MEMORY}}, r"Mine: BAR6; a function has BARs 0 to 5"),
    "size": ({"bars": {0: MemoryBar(0x1800)}}, r"Mine: BAR0 of 0x1800 bytes; make it a power"),
    "size of 8": ({"bars": {0: MemoryBar(8)}}, r"Mine: BAR0 of 0x8 bytes"),
    "size of 4 GiB": ({"bars": {0: RegisterBar((), 1 << 32)}}, r"Mine: BAR0 of 0x100000000"),
    "register behind the end": (
        {"bars": of(Register(Reg.FAR, Access.RW))},
        r"Mine: FAR at 0x2000: the BAR has 0x1000 bytes; make it larger",
    ),
    "offset twice": (
        {"bars": of(Register(Reg.SECOND), Register(Other.OVER))},
        r"Mine: OVER at 0x4: SECOND is there; give it another offset",
    ),
    "name twice": (
        {"bars": of(FIRST, Register(Other.FIRST))},
        r"Mine: FIRST at 0x8: the name is taken",
    ),
    "offset off its 4 bytes": ({"bars": of(Register(Odd.ODD))}, r"ODD at 0x6: .* multiple of 4"),
    "reset value": ({"bars": of(Register(Reg.FIRST, reset=1 << 32))}, r"FIRST: reset value 0x1"),
    "mask": ({"bars": of(Register(Reg.FIRST, mask=-1))}, r"FIRST: mask -0x1; .* 32 bits"),
    "vectors": ({"vectors": 2049}, r"Mine.vectors: 2049 MSI-X vectors; declare 0 to 2048"),
    "messages": ({"messages": 3}, r"Mine.messages: 3 MSI messages; declare 0 or a power"),
    "no BAR for the table": (
        {"vectors": 1, "bars": dict.fromkeys(range(6), MEMORY)},
        r"Mine: no BAR is free for the table of MSI-X; say by msix_bars",
    ),
    "table in a BAR that is not there": (
        {"vectors": 4, "msix": MsixBars(3, 3, 64)},
        r"Mine: MSI-X's table at 0x0 of BAR3: no such BAR",
    ),
    "bits in a BAR that is not there": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix": MsixBars(1, 2)},
        r"Mine: MSI-X's pending bits at 0x0 of BAR2: no such BAR",
    ),
    "table behind the end": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix": MsixBars(1, 1, 0, 0xFC8)},
        r"table at 0xfc8 of BAR1: 0x40 bytes of 4 vectors end behind its 0x1000",
    ),
    "bits behind the end": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix": MsixBars(1, 1, 0x2000)},
        r"pending bits at 0x2000 of BAR1",
    ),
    "bits in the table": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix": MsixBars(1, 1, 56)},
        r"Mine: MSI-X's pending bits at 0x38 of BAR1 lie in its table, which ends at 0x40",
    ),
    "table off its 8 bytes": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix": MsixBars(1, 1, 64, 4)},
        r"table at 0x4 of BAR1: a multiple of 8",
    ),
    "table over a register": (
        {"vectors": 4, "bars": of(FIRST), "msix": MsixBars(0, 0, 64)},
        r"Mine: MSI-X's table at 0x0 of BAR0 lies over the register FIRST at 0x0",
    ),
    "bits over a register": (
        {"vectors": 4, "bars": of(Register(Reg.LAST)), "msix": MsixBars(0, 0, 0xFF8)},
        r"pending bits at 0xff8 of BAR0 lies over the register LAST",
    ),
    "table in pages that are mapped": (
        {
            "vectors": 4,
            "bars": {2: SharedBar(0x2000, ((0x1000, 0x1000),))},
            "msix": MsixBars(2, 2, 64, 0x1000),
        },
        r"table at 0x1000 of BAR2 lies in memory that the client maps",
    ),
    "side effect of no register": (
        {"bars": of(FIRST), "read_all": nothing},
        r"Mine.read_all: no register of that name; declare it, or name the method otherwise",
    ),
    "side effect that is not a method": (
        {"bars": of(FIRST), "read_first": 3},
        r"Mine.read_first has the name of a side effect and is not a method; name it otherwise",
    ),
    "side effect of two registers": (
        {
            "bars": {0: RegisterBar((FIRST,)), 1: RegisterBar((Register(Other.FIRST),))},
            "read_first": nothing,
        },
        r"Mine.read_first: BAR0 and BAR1 each have a register FIRST, and both would call it",
    ),
    "write of what is read only": (
        {"bars": of(Register(Reg.FIRST)), "write_first": nothing},
        r"Mine.write_first is never called: FIRST of BAR0 is read only",
    ),
    "read of what is write only": (
        {"bars": of(Register(Reg.FIRST, Access.WO)), "read_first": nothing},
        r"Mine.read_first is never called: FIRST of BAR0 is write only",
    ),
}


@pytest.mark.parametrize(("declared", "said"), WRONG.values(), ids=WRONG)
def test_wrong_declaration(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**declared)


def test_registers_that_are_added_later_keep_out_of_msix_and_within_the_bar() -> None:
    made = make(MsixBars(0, 0, 0x840, 0x800), bars=of(FIRST), vectors=4)
    file = made.registers(0)
    for name, offset, said in (
        ("OVER", 0x83C, "Mine: OVER at 0x83c: MSI-X's table is there"),
        ("BITS", 0x840, "Mine: BITS at 0x840: MSI-X's pending bits is there"),
        ("BEHIND", 0x1000, "Mine: BEHIND at 0x1000: the BAR has 0x1000 bytes"),
    ):
        place: Any = IntEnum("Place", {name: offset})  # type: ignore[misc]
        with pytest.raises(ValueError, match=said):
            file.add((Register(place[name]),), made)
        with pytest.raises(ValueError, match=name):
            file.add((RegisterArray(place[name], 1, 4),), made)
    beside: Any = IntEnum("Beside", {"BEFORE": 0x7FC, "AFTER": 0x848})  # type: ignore[misc]
    file.add([Register(each, Access.RW) for each in beside], made)


def test_msix_beside_registers_shows_both() -> None:
    made = make(MsixBars(0, 0, 0x840, 0x800), bars=of(FIRST), vectors=4)
    made.region_write(7, 4, b"\2\0")
    write32(made, 0, Reg.FIRST, 7)
    assert read32(made, 0, 0x80C) == 1, "each vector is masked"
    write32(made, 0, 0x800, 0xFEE0_0000)
    assert (read32(made, 0, 0x800), read32(made, 0, Reg.FIRST)) == (0xFEE0_0000, 7)
