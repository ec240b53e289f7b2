# SPDX-License-Identifier: Apache-2.0
"""Declarations of BARs: registers, memory, or memory that the client may map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.registers import Declared
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.pci.msix import pba_size, table_size

_BARS = 6


@dataclass(frozen=True, slots=True)
class RegisterBar:
    """A BAR of registers, whose side effects are methods of the endpoint. Size in bytes.

    ``prefix`` comes first in their names, as in ``write_<prefix>_<register>``, so that registers of
    two BARs may have the same names.
    """

    registers: Sequence[Declared]
    size: int = PAGE
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class MemoryBar:
    """A BAR that is memory. Size in bytes, a power of two."""

    size: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SharedBar:
    """A BAR that is memory, whose ``areas`` (offset, bytes; whole pages) the client may map.

    A write there is not seen by the endpoint, and QEMU posts no write to this device any more.
    """

    size: int
    areas: tuple[tuple[int, int], ...]


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


Bar = RegisterBar | MemoryBar | SharedBar
Bars = Mapping[int, Bar]  # by the BAR's number


def bar_size(needed: int) -> int:
    """Return the smallest BAR, of at least 4 KiB, that holds ``needed`` bytes."""
    return max(PAGE, 1 << (needed - 1).bit_length())


def with_msix_bar(name: str, bars: Bars, vectors: int) -> tuple[dict[int, Bar], MsixBars]:
    """Add a BAR for MSI-X's table and pending bits; return all BARs, and where these two are.

    ValueError, which begins with ``name``, when no BAR is free.
    """
    free = [index for index in range(_BARS) if index not in bars]
    if not free:
        raise ValueError(
            f"{name}: no BAR is free for the table of MSI-X; say by msix_bars which has room for "
            "it, or declare one BAR less"
        )
    pba_offset = table_size(vectors)
    added = MemoryBar(bar_size(pba_offset + pba_size(vectors)))
    return {**bars, free[-1]: added}, MsixBars(free[-1], free[-1], pba_offset)
