# SPDX-License-Identifier: Apache-2.0
"""Declarations of BARs: registers, memory, memory that the client may map, callbacks, a mixture;
and of the expansion ROM.

Each BAR has ``bits`` (32 or 64) and ``prefetchable``. A BAR of 64 bits takes its number and the
next one. It may be larger than 2 GiB, and software may put it above 4 GiB. A prefetchable BAR needs
64 bits (PCI Express Base 5.0, 7.5.1.2.1); a read of it must not change anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from dma_rehearsal.device.endpoints.registers import Declared
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.pci import rom as rom_image
from dma_rehearsal.device.pci.base_addresses import BARS, ROM, BaseAddress, Space, taken
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.pci.msix import pba_size, table_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """The part of a declaration by which software places the BAR."""

    bits: int = 32
    prefetchable: bool = False


@dataclass(frozen=True, slots=True)
class RegisterBar(_Placed):
    """A BAR of registers, whose side effects are methods of the endpoint. Size in bytes.

    ``prefix`` comes first in their names, as in ``write_<prefix>_<register>``, so that registers of
    two BARs may have the same names.
    """

    registers: Sequence[Declared]
    size: int = PAGE
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class IoBar:
    """A BAR of registers in I/O space, whose size is a power of two from 4 to 256 bytes.

    ``prefix``: see `RegisterBar`.
    """

    registers: Sequence[Declared]
    size: int = 256
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class MemoryBar(_Placed):
    """A BAR that is memory. Size in bytes, a power of two. Memory above 16 MiB is sparse."""

    size: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SharedBar(_Placed):
    """A BAR that is memory, whose ``areas`` (offset, bytes; whole pages) the client may map.

    A write there is not seen by the endpoint, and QEMU posts no write to this device any more.
    """

    size: int
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CallbackBar(_Placed):
    """A BAR whose accesses call the endpoint. Size in bytes.

    A read of BAR2 calls ``read_bar2(offset, length)``, which returns ``length`` bytes; a write
    calls ``write_bar2(offset, data)``. Offsets are from the start of the BAR.
    """

    size: int


@dataclass(frozen=True, slots=True)
class Registers:
    """Registers as a part of a `MixedBar`; the part ends with the last register.

    ``prefix``: see `RegisterBar`.
    """

    registers: Sequence[Declared]
    prefix: str = ""

    @property
    def size(self) -> int:
        """Return the bytes up to the end of the last register."""
        places = (place for each in self.registers for place in each.places())
        return max((offset + size for _, offset, size in places), default=0)


PartOfBar = Registers | RegisterBar | MemoryBar | SharedBar | CallbackBar


@dataclass(frozen=True, slots=True)
class MixedBar(_Placed):
    """A BAR of several ``parts``, by the offset at which each begins. Size in bytes.

    Offsets within a part, such as those of its registers, are from the start of the part; those of
    a `CallbackBar` are from the start of the BAR. What lies between the parts reads 0.
    """

    size: int
    parts: Mapping[int, PartOfBar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MsixBars:
    """Where MSI-X's table and pending bits are; by default they share the last free BAR.

    Numbers of BARs, and bytes from their start: multiples of 8. They may lie in a BAR that has
    registers or memory beside them.
    """

    table: int
    pba: int
    pba_offset: int = 0
    table_offset: int = 0


@dataclass(frozen=True, slots=True)
class Rom:
    """The expansion ROM, which holds ``image``: with the header of one, at most 1 MiB."""

    image: bytes

    @property
    def size(self) -> int:
        """Return the bytes of the ROM: a power of two."""
        return rom_image.size_of(self.image)

    @classmethod
    def holding(cls, data: bytes, identity: Identity) -> Self:
        """Return a ROM that holds ``data``, which is not code, behind a header.

        ValueError for more than 1 MiB.
        """
        return cls(rom_image.image_of(data, identity))


Bar = RegisterBar | IoBar | MemoryBar | SharedBar | CallbackBar | MixedBar
Bars = Mapping[int, Bar]  # by the BAR's number


def base_addresses(bars: Bars, rom: Rom | None = None) -> dict[int, BaseAddress]:
    """Return the base address registers of BARs and of the expansion ROM."""
    found = {index: _base_address(bar) for index, bar in bars.items()}
    if rom is not None:
        found[ROM] = BaseAddress(rom.size)
    return found


def _base_address(bar: Bar) -> BaseAddress:
    if isinstance(bar, IoBar):
        return BaseAddress(bar.size, space=Space.IO)
    return BaseAddress(bar.size, bar.bits, bar.prefetchable)


def parts_of(bar: Bar) -> list[tuple[int, PartOfBar | IoBar]]:
    """Return the parts of a BAR, the lowest first; a BAR that is not mixed is its only part."""
    if isinstance(bar, MixedBar):
        return sorted(bar.parts.items(), key=lambda each: each[0])
    return [(0, bar)]


def bar_size(needed: int) -> int:
    """Return the smallest BAR, of at least 4 KiB, that holds ``needed`` bytes."""
    return max(PAGE, 1 << (needed - 1).bit_length())


def with_msix_bar(name: str, bars: Bars, vectors: int) -> tuple[dict[int, Bar], MsixBars]:
    """Add a BAR for MSI-X's table and pending bits; return all BARs, and where these two are.

    ValueError, which begins with ``name``, when no BAR is free.
    """
    not_free = taken(base_addresses(bars))
    free = [index for index in range(BARS) if index not in not_free]
    if not free:
        raise ValueError(
            f"{name}: no BAR is free for the table of MSI-X; say by msix_bars which has room for "
            "it, or declare one BAR less"
        )
    pba_offset = table_size(vectors)
    added = MemoryBar(bar_size(pba_offset + pba_size(vectors)))
    return {**bars, free[-1]: added}, MsixBars(free[-1], free[-1], pba_offset)
