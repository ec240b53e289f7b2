# SPDX-License-Identifier: Apache-2.0
"""Checks of declared BARs: their registers in the header, their parts, and MSI-X's place in them.

Each mistake is a ValueError that names the class, the BAR, the place in it and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dma_rehearsal.device.endpoints.bars import (
    Bar,
    Bars,
    CallbackBar,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    PartOfBar,
    RegisterBar,
    Registers,
    SharedBar,
    base_addresses,
    parts_of,
)
from dma_rehearsal.device.endpoints.callbacks import method_name
from dma_rehearsal.device.endpoints.registers import Access
from dma_rehearsal.device.endpoints.registers.declarations import checked_registers
from dma_rehearsal.device.pci import base_addresses as pci_base_addresses
from dma_rehearsal.device.pci.base_addresses import BARS
from dma_rehearsal.device.pci.msix import pba_size, table_size
from dma_rehearsal.device.pci.resizable_bar import ResizableBar
from dma_rehearsal.device.vfio_user.messages import PAGE_SIZE

_PARTS = (Registers, RegisterBar, MemoryBar, SharedBar, CallbackBar)
_WORD = 4


def check_bars(owner: object, bars: Bars) -> None:
    """Raise ValueError for BARs that no function can have."""
    name = type(owner).__name__
    if not isinstance(bars, Mapping):
        raise ValueError(
            f"{name}.bars is a {type(bars).__name__}; declare a mapping from the BARs' numbers: "
            "{0: RegisterBar(...)}"
        )
    for index, bar in bars.items():
        if not isinstance(index, int):
            raise ValueError(f"{name}.bars: the key {index!r}; a BAR's number is an int, 0 to 5")
        if index not in range(BARS):
            raise ValueError(f"{name}: BAR{index}; a function has BARs 0 to {BARS - 1}")
        if not isinstance(bar, (*_PARTS, IoBar, MixedBar)) or isinstance(bar, Registers):
            raise ValueError(
                f"{name}: BAR{index} is {repr(bar)[:80]}; declare a RegisterBar, IoBar, MemoryBar, "
                "SharedBar, CallbackBar or MixedBar"
            )
        for _, part in parts_of(bar):
            if isinstance(part, Registers | RegisterBar):
                checked_registers(f"{name}: registers", part.registers)
    try:
        pci_base_addresses.check(base_addresses(bars))
    except ValueError as mistake:
        raise ValueError(f"{name}: {mistake}") from None
    for index, bar in bars.items():
        if isinstance(bar, MixedBar):
            _check_parts(f"{name}: BAR{index}", bar)
        if not isinstance(bar, IoBar) and bar.prefetchable:
            _check_prefetchable(f"{name}: BAR{index}", bar)
        if any(isinstance(part, CallbackBar) for _, part in parts_of(bar)):
            _check_callbacks(owner, index)


def _check_parts(place: str, bar: MixedBar) -> None:
    before, before_end = 0, 0
    shared: list[int] = []
    for start, part in parts_of(bar):
        _check_part(f"{place}'s part at {start:#x}", start, part)
        if start < before_end:
            raise ValueError(
                f"{place}'s parts at {before:#x} and {start:#x} overlap: the first ends at "
                f"{before_end:#x}; move one, or make the first smaller"
            )
        before, before_end = start, start + part.size
        if before_end > bar.size:
            raise ValueError(
                f"{place}'s part at {start:#x} ends at {before_end:#x}, behind the BAR's "
                f"{bar.size:#x} bytes; make the BAR larger, or move the part"
            )
        if isinstance(part, SharedBar):
            shared.append(start)
    if len(shared) > 1:
        raise ValueError(
            f"{place}'s parts at {shared[0]:#x} and {shared[1]:#x} are both SharedBar, and a "
            "client maps one file in a BAR; declare one with two areas"
        )


def _check_part(place: str, start: int, part: PartOfBar | IoBar) -> None:
    if not isinstance(part, _PARTS):
        raise ValueError(
            f"{place} is {part!r}; a part is Registers, RegisterBar, MemoryBar, SharedBar or "
            "CallbackBar"
        )
    unit = PAGE_SIZE if isinstance(part, SharedBar) else _WORD
    if start < 0 or start % unit:
        raise ValueError(f"{place}: make its offset a multiple of {unit}")
    if part.size <= 0:
        raise ValueError(f"{place} has {part.size} bytes; give it a size, or registers")
    if not isinstance(part, Registers) and (part.bits != 32 or part.prefetchable):
        raise ValueError(f"{place} has bits or prefetchable; say them of the MixedBar")


def _check_prefetchable(place: str, bar: Bar) -> None:
    for _, part in parts_of(bar):
        if isinstance(part, Registers | RegisterBar):
            for declared in part.registers:
                if declared.element.masks()[Access.RC]:
                    raise ValueError(
                        f"{place} is prefetchable, and a read clears bits of "
                        f"{declared.offset.name}; leave prefetchable out, or give the bits "
                        "another access"
                    )


def _check_callbacks(owner: object, index: int) -> None:
    name = type(owner).__name__
    found = [getattr(owner, method_name(kind, index), None) for kind in ("read", "write")]
    if not any(map(callable, found)):
        raise ValueError(
            f"{name}: BAR{index} is a CallbackBar, and nothing is called; define "
            f"read_bar{index}(offset, length) and write_bar{index}(offset, data), or declare a "
            "MemoryBar"
        )


def check_msix(name: str, bars: Bars, vectors: int, msix: MsixBars) -> None:
    """Raise ValueError for a table or pending bits that do not fit where they are to lie."""
    table = msix.table, msix.table_offset, table_size(vectors)
    pba = msix.pba, msix.pba_offset, pba_size(vectors)
    for what, (index, offset, length) in (("table", table), ("pending bits", pba)):
        place = f"{name}: MSI-X's {what} at {offset:#x} of BAR{index}"
        if offset < 0 or offset % 8:
            raise ValueError(f"{place}: a multiple of 8 is needed")
        bar = bars.get(index)
        if bar is None:
            raise ValueError(f"{place}: no such BAR; declare it in bars, or name one that is there")
        if isinstance(bar, IoBar):
            raise ValueError(f"{place}: that BAR is in I/O space; name one in memory space")
        if offset + length > bar.size:
            raise ValueError(
                f"{place}: {length:#x} bytes of {vectors} vectors end behind its {bar.size:#x}; "
                "make the BAR larger, or the offset smaller"
            )
        _check_beside(place, bar, offset, length)
    if table[0] == pba[0] and _overlap(table[1:], pba[1:]):
        raise ValueError(
            f"{name}: MSI-X's pending bits at {pba[1]:#x} of BAR{pba[0]} lie in its table, which "
            f"ends at {table[1] + table[2]:#x}; put them behind it"
        )


def check_resizable(
    name: str, resizable: ResizableBar, bars: Bars, vectors: int, msix: MsixBars | None
) -> None:
    """Raise ValueError for a BAR of another size, and for what its smallest size would cut off.

    Software that chose that size would find no MSI-X table there, and a client could not map the
    areas of a `SharedBar`. Registers and memory may lie behind it.
    """
    smallest = resizable.smallest()
    for index, largest in resizable.largest().items():
        size = bars[index].size if index in bars else 0
        if size != largest:
            raise ValueError(
                f"{name}: ResizableBar lets BAR{index} have up to {largest:#x} bytes, and bars "
                f"declares {size:#x}; declare the largest size there"
            )
        for what, first, length in _needed(bars[index], index, vectors, msix):
            if first + length > smallest[index]:
                raise ValueError(
                    f"{name}: {what} at {first:#x} of BAR{index} ends at {first + length:#x}, and "
                    f"ResizableBar lets software leave the BAR {smallest[index]:#x} bytes; put it "
                    f"below, or offer BAR{index} no size that cuts it off"
                )


def _needed(
    bar: Bar, index: int, vectors: int, msix: MsixBars | None
) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the offset and the bytes of what a BAR must have at any size."""
    if vectors and msix is not None:
        if msix.table == index:
            yield "MSI-X's table", msix.table_offset, table_size(vectors)
        if msix.pba == index:
            yield "MSI-X's pending bits", msix.pba_offset, pba_size(vectors)
    for start, part in parts_of(bar):
        if isinstance(part, SharedBar):
            for first, length in part.areas:
                yield "an area of the SharedBar", start + first, length


def _check_beside(place: str, bar: Bar, offset: int, length: int) -> None:
    """Raise ValueError for a range over registers, callbacks, or pages that the client maps."""
    for start, part in parts_of(bar):
        if isinstance(part, Registers | RegisterBar):
            for register, first, size in _places(part):
                if _overlap((offset, length), (start + first, size)):
                    raise ValueError(
                        f"{place} lies over the register {register} at {start + first:#x}; put "
                        "it elsewhere, or into a BAR of its own"
                    )
        elif isinstance(part, SharedBar):
            for first, bytes_ in part.areas:
                if _overlap((offset, length), (start + first, bytes_)):
                    raise ValueError(
                        f"{place} lies in memory that the client maps, from {start + first:#x} "
                        "on; put it elsewhere, or leave its page out of the areas"
                    )
        elif isinstance(part, CallbackBar) and _overlap((offset, length), (start, part.size)):
            raise ValueError(
                f"{place} lies in a CallbackBar, from {start:#x} on; put it elsewhere, or declare "
                "a MixedBar that leaves room for it"
            )


def _places(part: Registers | RegisterBar) -> Iterator[tuple[str, int, int]]:
    """Yield the name, offset and bytes of each register."""
    for declared in part.registers:
        yield from declared.places()


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two ranges (first, length) have a byte in common."""
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
