# SPDX-License-Identifier: Apache-2.0
"""Checks of an author's declarations, made when the function is made.

Each mistake is a ValueError that names the class, the place and what to do. A guest would meet it
as a register that does not answer, or as a vector that writes over another register.
"""

from __future__ import annotations

from collections.abc import Mapping

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, MsixBars, RegisterBar, SharedBar
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.pci.msix import MAX_VECTORS, pba_size, table_size

_BARS = 6
_LEAST, _BEYOND = 16, 1 << 32  # of a 32-bit memory BAR; PCI Local Bus 3.0, 6.2.5.1
_IDENTITY_BITS = {
    "vendor_id": 16,
    "device_id": 16,
    "class_code": 24,
    "subsystem_vendor_id": 16,
    "subsystem_id": 16,
    "revision_id": 8,
}
_PINS = range(5)  # none, then INTA to INTD


def check(owner: object, bars: Bars, vectors: int, msix: MsixBars | None, messages: int) -> None:
    """Raise ValueError for identity, BARs or interrupts that no function can have."""
    name = type(owner).__name__
    _check_identity(name, getattr(owner, "identity", None))
    for index, bar in bars.items():
        _check_bar(name, index, bar)
    if not 0 <= vectors <= MAX_VECTORS:
        raise ValueError(f"{name}.vectors: {vectors} MSI-X vectors; declare 0 to {MAX_VECTORS}")
    if messages not in (0, 1, 2, 4, 8, 16, 32):
        raise ValueError(
            f"{name}.messages: {messages} MSI messages; declare 0 or a power of two to 32"
        )
    if msix is not None and vectors:
        _check_msix(name, bars, vectors, msix)


def _check_identity(name: str, identity: Identity | None) -> None:
    if identity is None:
        raise ValueError(
            f"{name}.identity is missing; declare Identity(vendor_id=..., device_id=..., "
            "class_code=...)"
        )
    for field, bits in _IDENTITY_BITS.items():
        value = getattr(identity, field)
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name}.identity: {field} {value:#x} does not fit into {bits} bits")
    if identity.interrupt_pin not in _PINS:
        raise ValueError(
            f"{name}.identity: interrupt_pin {identity.interrupt_pin}; 0 means none, 1 to 4 are "
            "INTA to INTD"
        )


def _check_bar(name: str, index: int, bar: RegisterBar | MemoryBar | SharedBar) -> None:
    if index not in range(_BARS):
        raise ValueError(f"{name}: BAR{index}; a function has BARs 0 to {_BARS - 1}")
    size = bar.size
    if not _LEAST <= size < _BEYOND or size & (size - 1):
        raise ValueError(
            f"{name}: BAR{index} of {size:#x} bytes; make it a power of two from {_LEAST} to 2 GiB"
        )


def _check_msix(name: str, bars: Bars, vectors: int, msix: MsixBars) -> None:
    table = msix.table, msix.table_offset, table_size(vectors)
    pba = msix.pba, msix.pba_offset, pba_size(vectors)
    for what, (index, offset, length) in (("table", table), ("pending bits", pba)):
        place = f"{name}: MSI-X's {what} at {offset:#x} of BAR{index}"
        if offset < 0 or offset % 8:
            raise ValueError(f"{place}: a multiple of 8 is needed")
        bar = bars.get(index)
        if bar is None:
            raise ValueError(f"{place}: no such BAR; declare it in bars, or name one that is there")
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


def _check_beside(
    place: str, bar: RegisterBar | MemoryBar | SharedBar, offset: int, length: int
) -> None:
    """Raise ValueError for what lies over a register, or over pages that the client maps."""
    if isinstance(bar, RegisterBar):
        for declared in bar.registers:
            for register, start, size in declared.places():
                if _overlap((offset, length), (start, size)):
                    raise ValueError(
                        f"{place} lies over the register {register} at {start:#x}; put it "
                        "elsewhere, or into a BAR of its own"
                    )
    elif isinstance(bar, SharedBar):
        for area in bar.areas:
            if _overlap((offset, length), area):
                raise ValueError(
                    f"{place} lies in memory that the client maps, from {area[0]:#x} on; put it "
                    "elsewhere, or leave its page out of the areas"
                )


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two ranges (first, length) have a byte in common."""
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


def check_side_effects(owner: object, files: Mapping[int, RegisterFile]) -> None:
    """Raise ValueError for a side effect that cannot be called, or that two registers call."""
    name = type(owner).__name__
    for method in dir(type(owner)):
        kind, _, register = method.partition("_")
        if kind not in ("read", "write"):
            continue
        having = [index for index, file in files.items() if register in file.names]
        if not callable(getattr(type(owner), method)):
            if having:
                raise ValueError(
                    f"{name}.{method} has the name of a side effect and is not a method; name it "
                    "otherwise"
                )
            continue
        if not having:
            raise ValueError(
                f"{name}.{method}: no register of that name; declare it, or name the method "
                "otherwise, for read_ and write_ are of registers"
            )
        owned = [index for index in having if files[index].owned_by(register, owner)]
        if len(owned) > 1:
            places = " and ".join(f"BAR{index}" for index in owned)
            raise ValueError(
                f"{name}.{method}: {places} each have a register {register.upper()}, and both "
                "would call it; give one another name"
            )
        for index in owned:
            if not files[index].calls(kind, register):
                why = "is read only" if kind == "write" else "is write only, and reads 0"
                raise ValueError(
                    f"{name}.{method} is never called: {register.upper()} of BAR{index} {why}; "
                    "give it another access, or remove the method"
                )
