# SPDX-License-Identifier: Apache-2.0
"""A declaration that no function can have is refused when the class is declared.

The error has the class, the place and advice. What only ``__init__`` knows is refused there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import (
    Bars,
    CallbackBar,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    RegisterBar,
    Registers,
    Rom,
    SharedBar,
)
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Fields, Flag, Register, RegisterArray
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.pci.atomics import AtomicOps
from dma_rehearsal.device.pci.config import Identity
from tests.unit.device.fakes import read32, write32

IDENTITY = Identity(0x1234, 1, 0xFF0000)
Reg = IntEnum("Reg", {"FIRST": 0, "SECOND": 4, "LAST": 0xFFC, "FAR": 0x2000})
Odd = IntEnum("Odd", {"ODD": 6})
Other = IntEnum("Other", {"FIRST": 8, "OVER": 4})


def declare(**declared: Any) -> type[Endpoint]:
    """Declare a class whose body has it all."""
    return type("Mine", (Endpoint,), {"identity": IDENTITY, **declared})


def make(**declared: Any) -> Endpoint:
    """Make a function of a class whose constructor passes it all."""
    names = ("bars", "vectors", "msix_bars")
    passed = {name: declared.pop(name) for name in names if name in declared}
    members = {"identity": IDENTITY, **declared}
    kind: Any = type("Mine", (Endpoint,), members, complete=False)
    made: Endpoint = kind(**passed)
    return made


def of(*registers: Register, size: int = 0x1000) -> dict[int, Any]:
    return {0: RegisterBar(registers, size)}


def nothing(self: Endpoint, *_: int) -> int:
    del self
    return 0


class Clearing(Fields):
    seen = Flag(2, Access.RC)


class Status(Fields):
    error = Flag(1, Access.W1C)


FIRST = Register(Reg.FIRST, Access.RW)
MEMORY = MemoryBar(0x1000)
UNLISTED: Any = FIRST  # a register without its sequence
NESTED: Any = MixedBar(16, {})
NO_PART: Any = IoBar((FIRST,))
RIGHT: dict[str, dict[str, Any]] = {
    "nothing but an identity": {},
    "last register of its BAR": {"bars": of(Register(Reg.LAST, Access.RW))},
    "register in a larger BAR": {"bars": of(Register(Reg.FAR), size=0x4000)},
    "smallest BAR": {"bars": {0: RegisterBar((FIRST,), 16)}},
    "2 GiB": {"bars": {0: RegisterBar((FIRST,), 1 << 31)}},
    "table and bits behind registers": {
        "bars": of(FIRST, size=0x4000),
        "vectors": 4,
        "msix_bars": MsixBars(0, 0, 0x2040, 0x2000),
    },
    "table that ends where the bits begin": {
        "bars": {1: MEMORY},
        "vectors": 4,
        "msix_bars": MsixBars(1, 1, 64),
    },
    "table and bits at one offset of two BARs": {
        "bars": {1: MEMORY, 2: MEMORY},
        "vectors": 4,
        "msix_bars": MsixBars(1, 2, 0),
    },
    "bits before the table": {"bars": {1: MEMORY}, "vectors": 4, "msix_bars": MsixBars(1, 1, 0, 8)},
    "bits that end with their BAR": {
        "bars": {1: MEMORY},
        "vectors": 4,
        "msix_bars": MsixBars(1, 1, 0xFF8),
    },
    "table beside pages that are mapped": {
        "bars": {2: SharedBar(0x2000, ((0x1000, 0x1000),))},
        "vectors": 4,
        "msix_bars": MsixBars(2, 2, 64),
    },
    "names that two BARs share, without a side effect": {
        "bars": {0: RegisterBar((FIRST,)), 1: RegisterBar((Register(Other.FIRST),))}
    },
    "table in the gap of an array": {
        "bars": {0: RegisterBar((RegisterArray(Reg.FIRST, 2, 0x40, Access.RW),))},
        "write_first": nothing,
        "vectors": 1,
        "msix_bars": MsixBars(0, 0, 0x20, 8),
    },
    "a prefix for the same names": {
        "bars": {0: RegisterBar((FIRST,)), 1: RegisterBar((FIRST,), prefix="dma")},
        "write_first": nothing,
        "write_dma_first": nothing,
    },
    "side effects": {
        "bars": of(FIRST, Register(Reg.SECOND, Status)),
        "read_first": nothing,
        "write_first": nothing,
        "write_second": nothing,
    },
    "values that are named as side effects are": {"read_retries": 3, "write_back": True},
    "64 bits, its upper half free": {
        "bars": {0: MemoryBar(0x1000, bits=64, prefetchable=True), 2: MEMORY}
    },
    "64 bits and 64 TiB": {"bars": {4: RegisterBar((FIRST,), 1 << 46, bits=64)}},
    "64 bits beside the table's own BAR": {
        "bars": {index: MemoryBar(0x1000, bits=64) for index in (0, 2)},
        "vectors": 1,
    },
    "parts one behind the other": {
        "bars": {
            0: MixedBar(
                0x4000,
                {
                    0x1000: MEMORY,
                    0: Registers((FIRST,)),
                    4: RegisterBar((FIRST,), 16),
                    0x2000: SharedBar(0x2000, ((0x1000, 0x1000),)),
                },
            )
        },
        "vectors": 4,
        "msix_bars": MsixBars(0, 0, 0x2040, 0x2000),
    },
    "a part that ends with its BAR": {"bars": {0: MixedBar(0x2000, {0x1000: MEMORY})}},
    "the table between parts": {
        "bars": {0: MixedBar(0x1000, {0: CallbackBar(0x100), 0x140: Registers((FIRST,))})},
        "read_bar0": nothing,
        "vectors": 4,
        "msix_bars": MsixBars(0, 0, 0xFF8, 0x100),
    },
    "the smallest BAR in I/O space, the largest, and a ROM": {
        "bars": {0: IoBar((FIRST,), 4), 1: IoBar((FIRST,))},
        "rom": Rom.holding(b"data", IDENTITY),
    },
    "callbacks": {"bars": {2: CallbackBar(16)}, "write_bar2": nothing},
    "a read that clears where nobody reads ahead": {
        "bars": {0: RegisterBar((Register(Reg.SECOND, Clearing),), bits=64)}
    },
    "registers that are prefetchable": {
        "bars": {0: RegisterBar((FIRST,), bits=64, prefetchable=True)}
    },
    "names that are not near": {"vendor": 3, "on_done": nothing, "on_stop": nothing, "stats": 1},
    "names that are near, of another kind": {"VECTORS": 3, "message": nothing},
    "hooks with their parameters, by other names": {
        "on_reset": lambda _self: None,
        "on_power": lambda _self, power: power,
        "on_access": lambda _self, bar, offset, data, *, write: (bar, offset, data, write),
        "on_unmap": lambda _self, *where: where,
    },
    "capabilities in a list": {"capabilities": [AtomicOps()]},
    "all vectors": {"vectors": 2048},
    "all messages": {"messages": 32},
}


@pytest.mark.parametrize("declared", RIGHT.values(), ids=RIGHT)
def test_right_declaration(declared: dict[str, Any]) -> None:
    declare(**declared)()
    make(**declared)


async def waits(self: Endpoint, *_: int) -> None:
    del self


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a hook by nearly its name": (
        {"on_rest": nothing},
        r"Mine.on_rest: no hook of that name \(is it on_reset\?\); correct it, or name your own",
    ),
    "vectors by nearly their name": (
        {"vector": 3},
        r"Mine.vector: no declaration of that name \(is it vectors\?\)",
    ),
    "capabilities by nearly their name": ({"capabilites": ()}, r"\(is it capabilities\?\)"),
    "bars by nearly their name": ({"bar": {}}, r"\(is it bars\?\)"),
    "a hook without its parameter": (
        {"on_power": lambda _self: None},
        r"Mine.on_power has the parameters \(\), and is called by on_power\(state\)",
    ),
    "a hook without its keyword": (
        {"on_access": lambda _self, _region, _offset, _data: None},
        r"is called by on_access\(region, offset, data, write=write\); give it these",
    ),
    "a hook that is not a method": ({"on_reset": 5}, r"Mine.on_reset is 5; a hook is a method"),
    "a hook that nothing awaits": (
        {"on_reset": waits},
        r"Mine.on_reset is a coroutine function, and nothing awaits it; make it .*self.start",
    ),
    "a side effect that nothing awaits": (
        {"bars": of(FIRST), "write_first": waits},
        r"Mine: FIRST: write_first is a coroutine function, and nothing awaits it",
    ),
    "a callback that nothing awaits": (
        {"bars": {2: CallbackBar(16)}, "write_bar2": waits},
        r"Mine.write_bar2 is a coroutine function, and nothing awaits it",
    ),
    "BARs in a list": (
        {"bars": [MEMORY]},
        r"Mine.bars is a list; declare a mapping from the BARs' numbers: \{0: RegisterBar",
    ),
    "a BAR by its name": ({"bars": {"0": MEMORY}}, r"Mine.bars: the key '0'; .* an int, 0 to 5"),
    "vectors in words": ({"vectors": "4"}, r"Mine.vectors: '4'; declare an int"),
    "messages in words": ({"messages": "4"}, r"Mine.messages: '4'; declare an int"),
    "one capability": (
        {"capabilities": AtomicOps()},
        r"Mine.capabilities: one capability where a list is needed; .*\(AtomicOps\(...\),\)",
    ),
    "the class of a capability": (
        {"capabilities": (AtomicOps,)},
        r"Mine.capabilities: AtomicOps is a class; declare AtomicOps\(...\)",
    ),
    "a capability by its name": (
        {"capabilities": ("AtomicOps",)},
        r"Mine.capabilities: 'AtomicOps'; declare a Capability",
    ),
    "no identity": ({"identity": None}, r"Mine.identity is missing; declare"),
    "no comma behind a register": (
        {"bars": {0: RegisterBar(UNLISTED)}, "vectors": 1, "msix_bars": MsixBars(0, 0, 64, 16)},
        r"Mine: registers: one register where a list is needed; write a comma behind it",
    ),
    "no comma in a part": (
        {"bars": {0: MixedBar(0x1000, {0: Registers(UNLISTED)})}},
        r"Mine: registers: one register where a list is needed",
    ),
    "the side effect of an array without its index": (
        {
            "bars": {0: RegisterBar((RegisterArray(Reg.FIRST, 4, 8, Access.RW),))},
            "write_first": lambda _self, _value: None,
        },
        r"Mine: FIRST: write_first has the parameters .*calls write_first\(index, value\)",
    ),
    "table over an element": (
        {
            "bars": {0: RegisterBar((RegisterArray(Reg.FIRST, 4, 8),))},
            "vectors": 1,
            "msix_bars": MsixBars(0, 0, 64, 16),
        },
        r"Mine: MSI-X's table at 0x10 of BAR0 lies over the register FIRST\[2\] at 0x10",
    ),
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
    "512 bytes in I/O space": (
        {"bars": {0: IoBar((FIRST,), 512)}},
        r"Mine: BAR0 of 0x200 bytes; make it a power of two from 4 to 256, the most",
    ),
    "a register behind the end in I/O space": (
        {"bars": {0: IoBar((Register(Reg.LAST),))}},
        r"Mine: LAST at 0xffc: the BAR has 0x100 bytes; make it larger",
    ),
    "table in I/O space": (
        {"vectors": 1, "bars": {1: IoBar((FIRST,))}, "msix_bars": MsixBars(1, 1, 64, 32)},
        r"Mine: MSI-X's table at 0x20 of BAR1: that BAR is in I/O space; name one in memory",
    ),
    "I/O space as a part": (
        {"bars": {0: MixedBar(0x1000, {0: NO_PART})}},
        r"Mine: BAR0's part at 0x0 is IoBar",
    ),
    "a ROM without a signature": (
        {"rom": Rom(b"\xaa\x55" + bytes(62))},
        r"Mine.rom: an image begins with the bytes 55 aa; declare Rom.holding\(data, identity\)",
    ),
    "a ROM without its structure": (
        {"rom": Rom(b"\x55\xaa" + bytes(62))},
        r'Mine.rom: no PCI Data Structure, "PCIR", at 0x0; declare Rom.holding',
    ),
    "a ROM of no bytes": ({"rom": Rom(b"")}, r"Mine.rom: 0 bytes; QEMU reads a ROM by one message"),
    "a ROM of more than 1 MiB": (
        {"rom": Rom(b"\x55\xaa" + bytes(1 << 20))},
        r"Mine.rom: 1048578 bytes",
    ),
    "size of 128 TiB": (
        {"bars": {0: MemoryBar(1 << 47, bits=64)}},
        r"Mine: BAR0 of 0x8.* bytes; make it a power of two from 16 to 64 TiB",
    ),
    "advice for a size beyond 32 bits": (
        {"bars": {0: MemoryBar(1 << 33)}},
        r"power of two from 16 to 2 GiB, or give it bits=64",
    ),
    "bits": ({"bars": {0: MemoryBar(16, bits=16)}}, r"Mine: BAR0 of 16 bits; give it bits=32"),
    "prefetchable and 32 bits": (
        {"bars": {0: MemoryBar(16, prefetchable=True)}},
        r"Mine: BAR0 is prefetchable, and .* needs 64 bits .*; give it bits=64",
    ),
    "64 bits at the last BAR": (
        {"bars": {5: MemoryBar(16, bits=64)}},
        r"Mine: BAR5 of 64 bits needs BAR6 as well; give it a lower number",
    ),
    "upper half that is another BAR": (
        {"bars": {2: MEMORY, 1: MemoryBar(16, bits=64)}},
        r"Mine: BAR2 is the upper half of BAR1, which has 64 bits; give it another number",
    ),
    "no BAR but upper halves for the table": (
        {"vectors": 1, "bars": {index: MemoryBar(16, bits=64) for index in (0, 2, 4)}},
        r"Mine: no BAR is free",
    ),
    "a BAR that is not one": ({"bars": {0: 0x1000}}, r"Mine: BAR0 is 4096; declare a RegisterBar"),
    "registers without a size": ({"bars": {0: Registers((FIRST,))}}, r"Mine: BAR0 is Registers"),
    "a mixed BAR in another": (
        {"bars": {0: MixedBar(0x1000, {0: NESTED})}},
        r"Mine: BAR0's part at 0x0 is MixedBar.*; a part is Registers",
    ),
    "parts that overlap": (
        {"bars": {1: MixedBar(0x4000, {0xFFC: MEMORY, 0: MEMORY})}},
        r"Mine: BAR1's parts at 0x0 and 0xffc overlap: the first ends at 0x1000; move one",
    ),
    "a part behind the end": (
        {"bars": {1: MixedBar(0x1000, {4: MEMORY})}},
        r"Mine: BAR1's part at 0x4 ends at 0x1004, behind the BAR's 0x1000 bytes; make the BAR",
    ),
    "a part before the start": (
        {"bars": {1: MixedBar(0x1000, {-4: MemoryBar(16)})}},
        r"Mine: BAR1's part at -0x4: make its offset a multiple of 4",
    ),
    "a part off its 4 bytes": (
        {"bars": {1: MixedBar(0x1000, {2: Registers((FIRST,))})}},
        r"Mine: BAR1's part at 0x2: make its offset a multiple of 4",
    ),
    "shared memory off its page": (
        {"bars": {1: MixedBar(0x4000, {0x800: SharedBar(0x1000, ())})}},
        r"Mine: BAR1's part at 0x800: make its offset a multiple of 4096",
    ),
    "shared memory twice": (
        {"bars": {1: MixedBar(0x4000, {at: SharedBar(0x1000, ()) for at in (0, 0x2000)})}},
        r"Mine: BAR1's parts at 0x0 and 0x2000 are both SharedBar",
    ),
    "a part without bytes": (
        {"bars": {1: MixedBar(0x4000, {0x800: Registers(())})}},
        r"Mine: BAR1's part at 0x800 has 0 bytes; give it a size, or registers",
    ),
    "a part of 64 bits": (
        {"bars": {1: MixedBar(0x4000, {0: MemoryBar(16, bits=64)})}},
        r"Mine: BAR1's part at 0x0 has bits or prefetchable; say them of the MixedBar",
    ),
    "callbacks that call nothing": (
        {"bars": {2: CallbackBar(16)}},
        r"Mine: BAR2 is a CallbackBar, and nothing is called; define read_bar2\(offset, length\)",
    ),
    "a callback of another BAR": (
        {"bars": {2: CallbackBar(16)}, "read_bar2": nothing, "read_bar3": nothing},
        r"Mine.read_bar3: no register of that name",
    ),
    "table over a part's register": (
        {
            "vectors": 4,
            "bars": {0: MixedBar(0x1000, {0x100: Registers((FIRST,))})},
            "msix_bars": MsixBars(0, 0, 0x800, 0xC8),
        },
        r"Mine: MSI-X's table at 0xc8 of BAR0 lies over the register FIRST at 0x100",
    ),
    "table in a part's pages that are mapped": (
        {
            "vectors": 4,
            "bars": {0: MixedBar(0x8000, {0x2000: SharedBar(0x2000, ((0x1000, 0x1000),))})},
            "msix_bars": MsixBars(0, 0, 0, 0x2FC8),
        },
        r"table at 0x2fc8 of BAR0 lies in memory that the client maps, from 0x3000 on",
    ),
    "table over callbacks": (
        {
            "vectors": 4,
            "bars": {0: CallbackBar(0x1000)},
            "write_bar0": nothing,
            "msix_bars": MsixBars(0, 0, 0x800, 0),
        },
        r"table at 0x0 of BAR0 lies in a CallbackBar, from 0x0 on; .* declare a MixedBar that",
    ),
    "a read that clears where a bridge may read": (
        {
            "bars": {
                0: MixedBar(
                    0x1000,
                    {0x100: Registers((Register(Reg.SECOND, Clearing),))},
                    bits=64,
                    prefetchable=True,
                )
            }
        },
        r"Mine: BAR0 is prefetchable, and a read clears bits of SECOND; leave prefetchable out",
    ),
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
        {"vectors": 4, "msix_bars": MsixBars(3, 3, 64)},
        r"Mine: MSI-X's table at 0x0 of BAR3: no such BAR",
    ),
    "bits in a BAR that is not there": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix_bars": MsixBars(1, 2)},
        r"Mine: MSI-X's pending bits at 0x0 of BAR2: no such BAR",
    ),
    "table behind the end": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix_bars": MsixBars(1, 1, 0, 0xFC8)},
        r"table at 0xfc8 of BAR1: 0x40 bytes of 4 vectors end behind its 0x1000",
    ),
    "bits behind the end": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix_bars": MsixBars(1, 1, 0x2000)},
        r"pending bits at 0x2000 of BAR1",
    ),
    "bits in the table": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix_bars": MsixBars(1, 1, 56)},
        r"Mine: MSI-X's pending bits at 0x38 of BAR1 lie in its table, which ends at 0x40",
    ),
    "table off its 8 bytes": (
        {"vectors": 4, "bars": {1: MEMORY}, "msix_bars": MsixBars(1, 1, 64, 4)},
        r"table at 0x4 of BAR1: a multiple of 8",
    ),
    "table over a register": (
        {"vectors": 4, "bars": of(FIRST), "msix_bars": MsixBars(0, 0, 64)},
        r"Mine: MSI-X's table at 0x0 of BAR0 lies over the register FIRST at 0x0",
    ),
    "bits over a register": (
        {"vectors": 4, "bars": of(Register(Reg.LAST)), "msix_bars": MsixBars(0, 0, 0xFF8)},
        r"pending bits at 0xff8 of BAR0 lies over the register LAST",
    ),
    "table in pages that are mapped": (
        {
            "vectors": 4,
            "bars": {2: SharedBar(0x2000, ((0x1000, 0x1000),))},
            "msix_bars": MsixBars(2, 2, 64, 0x1000),
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
    if declared.get("identity", IDENTITY) is not None:  # a base class may leave it out
        with pytest.raises(ValueError, match=said):
            declare(**declared)


def test_a_class_that_is_not_complete_is_checked_when_it_is_made() -> None:
    class Base(Endpoint, complete=False):
        identity = IDENTITY
        bars: ClassVar[Bars] = of(FIRST)

        def write_second(self, _value: int) -> None: ...

    class Whole(Base):
        bars: ClassVar[Bars] = of(FIRST, Register(Reg.SECOND, Access.RW))

    Whole()
    with pytest.raises(ValueError, match=r"Base.write_second: .*class Base\(Endpoint, complete=F"):
        Base()


def test_side_effects_without_bars_wait_for_the_constructor() -> None:
    """A class that has no BARs in its body passes them, or is a base class."""

    class Later(Endpoint):
        identity = IDENTITY

        def write_first(self, _value: int) -> None: ...

    Later(bars=of(FIRST))
    with pytest.raises(ValueError, match=r"Later.write_first: no register"):
        Later()


def test_bars_that_are_a_property_are_of_each_function() -> None:
    def bars(_self: Endpoint) -> Any:
        return of(Register(Reg.FAR))

    with pytest.raises(ValueError, match="Mine: FAR at 0x2000"):
        declare(bars=property(bars))()


PARTS: dict[int, Any] = {
    0: MixedBar(
        0x4000,
        {
            0x100: Registers((FIRST, Register(Reg.SECOND))),
            0x1000: MEMORY,
            0x2000: CallbackBar(0x100),
            0x3000: SharedBar(0x1000, ()),
        },
    )
}


@pytest.mark.parametrize(
    ("part", "right"),
    [
        (StatePart(0, 0x100, 8), True),
        (StatePart(0, 0x104, 4), True),
        (StatePart(0, 0x102, 4), False),
        (StatePart(0, 0xFC, 8), False),
        (StatePart(0, 0x1000, 0x1000), True),
        (StatePart(0, 0x1001, 0x1000), False),
        (StatePart(0, 0xFFF, 2), False),
        (StatePart(0, 0x2000, 4), False),
        (StatePart(0, 0x3000, 0x1000), True),
        (StatePart(0, 0x1000, 0), False),
        (StatePart(0, 0x1000, -4), False),
        (StatePart(1, 0, 4), False),
    ],
)
def test_the_state_of_a_class_is_in_its_bars(part: StatePart, right: bool) -> None:
    members = {"bars": PARTS, "state": (part,), "write_bar0": nothing}
    if right:
        declare(**members)
        return
    with pytest.raises(ValueError, match=r"Mine.state: StatePart\(.*: the endpoint has no"):
        declare(**members)
    with pytest.raises(ValueError, match="the endpoint has no such bytes"):
        make(**members)


def test_a_declaration_makes_no_memory() -> None:
    declare(bars={0: MemoryBar(1 << 46, bits=64), 2: SharedBar(1 << 46, (), bits=64)})


def test_registers_that_are_added_later_keep_out_of_msix_and_within_the_bar() -> None:
    made = make(msix_bars=MsixBars(0, 0, 0x840, 0x800), bars=of(FIRST), vectors=4)
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
    made = make(msix_bars=MsixBars(0, 0, 0x840, 0x800), bars=of(FIRST), vectors=4)
    made.region_write(7, 4, b"\2\0")
    write32(made, 0, Reg.FIRST, 7)
    assert read32(made, 0, 0x80C) == 1, "each vector is masked"
    write32(made, 0, 0x800, 0xFEE0_0000)
    assert (read32(made, 0, 0x800), read32(made, 0, Reg.FIRST)) == (0xFEE0_0000, 7)
