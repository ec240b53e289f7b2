# SPDX-License-Identifier: Apache-2.0
"""What the platform's witness reads out of page tables, PAT and MTRRs."""

from __future__ import annotations

from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout.page import PAGE as SMALL_PAGE
from dma_rehearsal.device.platform.memory_types import ALL_WRITE_BACK, Mtrrs
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.platform.witness import ReadPhysical, Rights, Witness


class _WitnessIgnoresPat(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Blind(Witness):
            def pat_bit(self, entry: int, size: int) -> bool:
                return False

        return Blind(read, pat, mtrrs)


class _WitnessMisplacesPat(Platform):
    """In an entry for a large page that bit says that it is one."""

    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Misplaced(Witness):
            def pat_bit(self, entry: int, size: int) -> bool:
                return super().pat_bit(entry, SMALL_PAGE)

        return Misplaced(read, pat, mtrrs)


class _WitnessIgnoresRights(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Lenient(Witness):
            def rights(self, entry: int, above: Rights) -> Rights:
                return above

        return Lenient(read, pat, mtrrs)


class _WitnessIgnoresMtrrs(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        return Witness(read, pat, Mtrrs(ALL_WRITE_BACK, mtrrs.physical_bits))


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "witness-ignores-pat": DeviceFault(platform=_WitnessIgnoresPat),
    "witness-misplaces-pat": DeviceFault(platform=_WitnessMisplacesPat),
    "witness-ignores-rights": DeviceFault(platform=_WitnessIgnoresRights),
    "witness-ignores-mtrrs": DeviceFault(platform=_WitnessIgnoresMtrrs),
}
