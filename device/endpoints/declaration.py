# SPDX-License-Identifier: Apache-2.0
"""Checks of an author's declarations: when the class is declared, and when a function is made.

Each mistake is a ValueError that names the class, the place and what to do. A guest would meet it
as a register that does not answer, or as a vector that writes over another register. The class
body has most of it. Values that only ``__init__`` knows are checked there, by the same code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dma_rehearsal.device.endpoints import contents
from dma_rehearsal.device.endpoints.bar_checks import check_bars, check_msix, check_resizable
from dma_rehearsal.device.endpoints.bars import (
    Bars,
    CallbackBar,
    MsixBars,
    Rom,
    parts_of,
    with_msix_bar,
)
from dma_rehearsal.device.endpoints.callbacks import method_name
from dma_rehearsal.device.endpoints.contents import PlacedRegisters
from dma_rehearsal.device.endpoints.registers.declarations import NOT_AWAITED
from dma_rehearsal.device.pci import rom, sriov
from dma_rehearsal.device.pci.config import Capability, Identity
from dma_rehearsal.device.pci.msix import MAX_VECTORS
from dma_rehearsal.device.pci.resizable_bar import ResizableBar

_IDENTITY_BITS = {
    "vendor_id": 16,
    "device_id": 16,
    "class_code": 24,
    "subsystem_vendor_id": 16,
    "subsystem_id": 16,
    "revision_id": 8,
}
_PINS = range(5)  # none, then INTA to INTD


@dataclass(frozen=True, slots=True)
class Declared:
    """The BARs, with the one that MSI-X was given, the ROM, the vectors and their place."""

    bars: Bars
    rom: Rom | None
    vectors: int
    msix_bars: MsixBars | None


def check_class(kind: type) -> None:
    """Raise ValueError for what a class declares, as far as the class body has it.

    Side effects are compared with registers where the class has BARs.
    """
    owner: Any = object.__new__(kind)  # its methods are looked at, and never called
    capabilities = getattr(kind, "capabilities", ())
    check_capabilities(kind.__name__, capabilities)
    if hasattr(getattr(kind, "bars", None), "__get__"):
        return  # a property: each function has its own
    if getattr(kind, "identity", None) is not None:
        _check_identity(kind.__name__, owner.identity)
    declared = complete(owner)
    registers = contents.declared_registers(declared.bars, owner)
    if owner.bars:
        for each in capabilities if isinstance(capabilities, tuple | list) else ():
            check_capability(kind.__name__, each, declared)
        check_side_effects(owner, declared.bars, registers)
        for part in owner.state:
            if not contents.can_be_saved(
                declared.bars, registers, part.bar, part.offset, part.length
            ):
                raise ValueError(
                    f"{kind.__name__}.state: {part}: the endpoint has no such bytes; name memory "
                    "of a BAR, or registers from the first byte to the last"
                )


def check(
    owner: Any,
    *,
    bars: Bars | None = None,
    vectors: int | None = None,
    msix_bars: MsixBars | None = None,
) -> Declared:
    """Return what a function has: these values, and for those that are None the class's.

    ValueError for identity, BARs or interrupts that no function can have.
    """
    _check_identity(type(owner).__name__, getattr(owner, "identity", None))
    return complete(owner, bars=bars, vectors=vectors, msix_bars=msix_bars)


def complete(
    owner: Any,
    *,
    bars: Bars | None = None,
    vectors: int | None = None,
    msix_bars: MsixBars | None = None,
) -> Declared:
    """Return what a function has, but for its identity; see ``check``."""
    name = type(owner).__name__
    bars = owner.bars if bars is None else bars
    vectors = owner.vectors if vectors is None else vectors
    msix_bars = owner.msix_bars if msix_bars is None else msix_bars
    check_bars(owner, bars)
    for what, value in (("vectors", vectors), ("messages", owner.messages)):
        if not isinstance(value, int):
            raise ValueError(f"{name}.{what}: {value!r}; declare an int, how many it has")
    if not 0 <= vectors <= MAX_VECTORS:
        raise ValueError(f"{name}.vectors: {vectors} MSI-X vectors; declare 0 to {MAX_VECTORS}")
    if owner.messages not in (0, 1, 2, 4, 8, 16, 32):
        raise ValueError(
            f"{name}.messages: {owner.messages} MSI messages; declare 0 or a power of two to 32"
        )
    if vectors and msix_bars is None:
        bars, msix_bars = with_msix_bar(name, bars, vectors)
    if vectors and msix_bars is not None:
        check_msix(name, bars, vectors, msix_bars)
    if owner.rom is not None:
        rom.check(f"{name}.rom", owner.rom.image)
    return Declared(bars, owner.rom, vectors, msix_bars)


def _check_identity(name: str, identity: Identity | None) -> None:
    if identity is None:
        raise ValueError(
            f"{name}.identity is missing; declare Identity(vendor_id=..., device_id=..., "
            "class_code=...)"
        )
    if not isinstance(identity, Identity):
        raise TypeError(
            f"{name}.identity: {repr(identity)[:60]}; declare Identity(vendor_id=..., "
            "device_id=..., class_code=...)"
        )
    for field, bits in _IDENTITY_BITS.items():
        value = getattr(identity, field)
        if not isinstance(value, int):
            raise TypeError(f"{name}.identity: {field} {value!r}; give an int, such as 0x8086")
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name}.identity: {field} {value:#x} does not fit into {bits} bits")
    if identity.interrupt_pin not in _PINS:
        raise ValueError(
            f"{name}.identity: interrupt_pin {identity.interrupt_pin}; 0 means none, 1 to 4 are "
            "INTA to INTD"
        )


def check_side_effects(owner: object, bars: Bars, files: Iterable[PlacedRegisters]) -> None:
    """Raise ValueError for a side effect that cannot be called, or that two registers call."""
    name, files = type(owner).__name__, [*files]
    called = _callback_methods(bars)
    for method in dir(type(owner)):
        kind, _, register = method.partition("_")
        if method in called and inspect.iscoroutinefunction(getattr(type(owner), method)):
            raise ValueError(f"{name}.{method} {NOT_AWAITED}")
        if kind not in ("read", "write") or method in called:
            continue
        having = [placed for placed in files if register in placed.file.names]
        if not callable(getattr(type(owner), method)):
            if having:
                raise ValueError(
                    f"{name}.{method} has the name of a side effect and is not a method; name it "
                    "otherwise"
                )
            continue
        if not having:
            raise ValueError(
                f"{name}.{method}: no register of that name{_nearest(kind, register, files)}; "
                "declare it, or name the method "
                "otherwise, for read_ and write_ are of registers. Where __init__ passes the BARs, "
                f"declare the class with complete=False: class {name}(Endpoint, complete=False)"
            )
        owned = [placed for placed in having if placed.file.owned_by(register, owner)]
        if len(owned) > 1:
            places = " and ".join(placed.place for placed in owned)
            raise ValueError(
                f"{name}.{method}: {places} each have a register {register.upper()}, and both "
                "would call it; give one another name, or its registers a prefix"
            )
        for placed in owned:
            if not placed.file.calls(kind, register):
                why = "is read only" if kind == "write" else "is write only, and reads 0"
                raise ValueError(
                    f"{name}.{method} is never called: {register.upper()} of {placed.place} {why}; "
                    "give it another access, or remove the method"
                )


def _nearest(kind: str, register: str, files: Iterable[PlacedRegisters]) -> str:
    """Return the words about a method with nearly this name that a register would call."""
    names = [name for placed in files for name in placed.file.names]
    near = get_close_matches(register, names, 1)
    return f" (is it {kind}_{near[0]}?)" if near else ""


def _callback_methods(bars: Bars) -> set[str]:
    """Return the names of the methods that accesses to a `CallbackBar` call."""
    return {
        method_name(kind, index)
        for index, bar in bars.items()
        for kind in ("read", "write")
        if any(isinstance(part, CallbackBar) for _, part in parts_of(bar))
    }


def check_capabilities(name: str, declared: object) -> None:
    """Raise ValueError unless ``declared`` are capabilities, in a sequence."""
    if isinstance(declared, Capability):
        raise ValueError(
            f"{name}.capabilities: one capability where a list is needed; write a comma behind "
            f"it: ({type(declared).__name__}(...),)"
        )
    for each in declared if isinstance(declared, tuple | list) else ():
        if isinstance(each, type):
            raise ValueError(
                f"{name}.capabilities: {each.__name__} is a class; declare {each.__name__}(...)"
            )
        if not isinstance(each, Capability):
            raise ValueError(f"{name}.capabilities: {each!r}; declare a Capability")


def check_capability(name: str, capability: Capability, declared: Declared) -> None:
    """Raise ValueError for SR-IOV, and for a resizable BAR that does not fit what is declared."""
    check_capabilities(name, [capability])
    sriov.check(name, capability)
    if isinstance(capability, ResizableBar):
        check_resizable(name, capability, declared.bars, declared.vectors, declared.msix_bars)
