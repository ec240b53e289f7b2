# SPDX-License-Identifier: Apache-2.0
"""Makes the contents of declared BARs, and finds the parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.bar_memory import (
    Memory,
    ReadOnlyMemory,
    RomMemory,
    SharedMemory,
)
from dma_rehearsal.device.endpoints.bars import (
    Bars,
    CallbackBar,
    IoBar,
    MemoryBar,
    MixedBar,
    PartOfBar,
    RegisterBar,
    Registers,
    Rom,
    SharedBar,
    parts_of,
)
from dma_rehearsal.device.endpoints.callbacks import Callbacks
from dma_rehearsal.device.endpoints.mixed_content import MixedContent, Part
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.pci.base_addresses import ROM

_Content = TypeVar("_Content", bound=BarContent)


class PlacedRegisters(NamedTuple):
    """The registers that begin at ``start`` of a BAR."""

    bar: int
    start: int
    file: RegisterFile

    @property
    def place(self) -> str:
        """Return the place as errors name it."""
        return f"BAR{self.bar} at {self.start:#x}" if self.start else f"BAR{self.bar}"


def contents_of(bars: Bars, owner: object, rom: Rom | None = None) -> dict[int, BarContent]:
    """Return the contents of declared BARs and of the ROM; ``owner`` has the side effects."""
    found: dict[int, BarContent] = {}
    for index, bar in bars.items():
        if isinstance(bar, MixedBar):
            found[index] = MixedContent(
                [
                    Part(start, part.size, _content(part, owner, index, start))
                    for start, part in parts_of(bar)
                ]
            )
        else:
            found[index] = _content(bar, owner, index, 0)
    if rom is not None:
        found[ROM] = RomMemory(rom.image, rom.size)
    return found


def _content(part: PartOfBar | IoBar, owner: object, bar: int, start: int) -> BarContent:
    if isinstance(part, RegisterBar | IoBar | Registers):
        return RegisterFile(part.registers, owner, part.size, part.prefix)
    if isinstance(part, SharedBar):
        return SharedMemory(part.size, part.areas, start)
    if isinstance(part, CallbackBar):
        return Callbacks(owner, bar, start)
    return (ReadOnlyMemory if part.read_only else Memory)(part.size)


def declared_registers(bars: Bars, owner: object) -> list[PlacedRegisters]:
    """Return the registers of declared BARs alone: no memory is made."""
    found = []
    for index, bar in bars.items():
        for start, part in parts_of(bar):
            if isinstance(part, RegisterBar | IoBar | Registers):
                file = RegisterFile(part.registers, owner, part.size, part.prefix)
                found.append(PlacedRegisters(index, start, file))
    return found


def can_be_saved(
    bars: Bars, registers: Iterable[PlacedRegisters], bar: int, offset: int, length: int
) -> bool:
    """Return whether a migration can carry bytes of declared BARs: memory, or whole registers."""
    parts = parts_of(bars[bar]) if bar in bars and length > 0 else []
    for start, part in parts:
        if not start <= offset <= start + part.size - length:
            continue
        if isinstance(part, MemoryBar | SharedBar):
            return True
        files = (placed.file for placed in registers if (placed.bar, placed.start) == (bar, start))
        return any(file.has(offset - start, length) for file in files)
    return False


def registers_of(contents: Mapping[int, BarContent]) -> list[PlacedRegisters]:
    """Return all registers, by BAR and place."""
    return [
        PlacedRegisters(index, start, content)
        for index, whole in contents.items()
        for start, content in _parts(whole)
        if isinstance(content, RegisterFile)
    ]


def _parts(content: BarContent) -> Iterator[tuple[int, BarContent]]:
    if isinstance(content, MixedContent):
        for part in content.parts:
            yield part.start, part.content
    else:
        yield 0, content


def reserve(
    registers: Iterable[PlacedRegisters], bar: int, offset: int, length: int, what: str
) -> None:
    """Keep later registers out of a range of a BAR in which something else shows."""
    for placed in registers:
        if placed.bar == bar:
            placed.file.reserve(offset - placed.start, length, what)


def the_part(
    contents: Mapping[int, BarContent], bar: int, at: int | None, kind: type[_Content], what: str
) -> _Content:
    """Return the only content of a kind in a BAR, or the one that begins at ``at``.

    LookupError, which names what there is, for another number of them.
    """
    if bar not in contents:
        raise LookupError(f"BAR{bar} is not declared")
    found = [
        (start, content)
        for start, content in _parts(contents[bar])
        if isinstance(content, kind) and at in (None, start)
    ]
    if not found:
        where = "" if at is None else f" at {at:#x}"
        raise LookupError(f"BAR{bar} has no {what}{where}")
    if len(found) > 1:
        starts = ", ".join(f"{start:#x}" for start, _ in found)
        raise LookupError(f"BAR{bar} has {what} at {starts}; say at which of them, by at=")
    return found[0][1]
