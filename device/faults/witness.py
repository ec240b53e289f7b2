# SPDX-License-Identifier: Apache-2.0
"""Faults of the witness: how it reads page tables, PAT and MTRRs."""

from __future__ import annotations

from functools import partial

from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout.page import PAGE as SMALL_PAGE
from dma_rehearsal.device.platform.memory_types import ALL_WRITE_BACK, Mtrrs
from dma_rehearsal.device.platform.platform import PlatformModels
from dma_rehearsal.device.platform.witness import ReadPhysical, Rights, Witness


class _IgnoresPat(Witness):
    def pat_bit(self, entry: int, size: int) -> bool:
        del entry, size
        return False


class _MisplacesPat(Witness):
    """In an entry for a large page, that bit says that the page is large."""

    def pat_bit(self, entry: int, size: int) -> bool:
        del size
        return super().pat_bit(entry, SMALL_PAGE)


class _IgnoresRights(Witness):
    def rights(self, entry: int, above: Rights) -> Rights:
        del entry
        return above


class _IgnoresMtrrs(Witness):
    def __init__(self, read_physical: ReadPhysical, pat: int, mtrrs: Mtrrs) -> None:
        super().__init__(read_physical, pat, Mtrrs(ALL_WRITE_BACK, mtrrs.physical_bits))


def _with(witness: type[Witness]) -> DeviceFault:
    return DeviceFault(platform=partial(PlatformModels, witness=witness))


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "witness-ignores-pat": _with(_IgnoresPat),
    "witness-misplaces-pat": _with(_MisplacesPat),
    "witness-ignores-rights": _with(_IgnoresRights),
    "witness-ignores-mtrrs": _with(_IgnoresMtrrs),
}
