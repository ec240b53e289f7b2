# SPDX-License-Identifier: Apache-2.0
"""ATS: translation requests and the one-entry cache (PCI Express Base 5.0, section 10.2). Modelled.

vfio-user carries no translation request, and QEMU translates nothing for one. So the answer is made
here from the client's DMA map: the address itself, with what the map permits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.registers import (
    Access,
    Field,
    Fields,
    Flag,
    Register,
    RegisterFile,
)
from dma_rehearsal.device.exerciser.transfer import Segment, Transfer
from dma_rehearsal.device.layout import AddressType, AtsCtl, AtsPerm, DmaReason, Reg

_SMALLEST, _LARGEST = 1 << 12, 1 << 21  # ranges that a translation covers, in bytes
_RESULT = AtsCtl.IN_FLIGHT | AtsCtl.SUCCESS | AtsCtl.CACHEABLE | AtsCtl.INVALIDATED


class AtsControl(Fields):
    """ATSCTL."""

    trigger = Flag(AtsCtl.TRIGGER, Access.SELF_CLEARING)
    privileged = Flag(AtsCtl.PRIVILEGED)
    no_write = Flag(AtsCtl.NO_WRITE)
    pasid = Flag(AtsCtl.PASID)
    execute = Flag(AtsCtl.EXECUTE)
    clear_atc = Flag(AtsCtl.CLEAR_ATC, Access.SELF_CLEARING)
    result = Field(_RESULT, Access.RO)


ATS_REGISTERS = (
    Register(Reg.ATSCTL, AtsControl),
    *(Register(each) for each in (Reg.ATS_ADDR_LO, Reg.ATS_ADDR_HI)),
    *(Register(each) for each in (Reg.ATS_RANGE_SIZE, Reg.ATS_PERM)),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A translation. ``untranslated`` and ``translated`` are the range's first addresses.

    ``pasid`` is the address space's that it is of; None without one.
    """

    untranslated: int
    translated: int
    size: int
    permissions: AtsPerm
    pasid: int | None = None


class Atc:
    """Requests by ATSCTL, and the last answer.

    ``enabled`` and ``pasid_enabled``: the Enable of each capability.
    """

    def __init__(
        self,
        control: RegisterFile,
        bus: Bus,
        *,
        enabled: Callable[[], bool],
        pasid_enabled: Callable[[], bool],
    ) -> None:
        self._control, self._bus = control, bus
        self._enabled, self._pasid_enabled = enabled, pasid_enabled
        self.entry: Entry | None = None
        control.add(ATS_REGISTERS, self)

    def reset(self) -> None:
        """Forget the translation."""
        self.entry = None

    def control(self, enabled: bool) -> None:
        """Forget the translation when software disables ATS (section 10.5.1.3)."""
        if not enabled and self.entry is not None:
            self.entry = None
            self._show(AtsCtl.INVALIDATED)

    def write_atsctl(self, value: int) -> None:
        """Drop the translation and what shows it, then ask for another, as the bits say."""
        asked = AtsControl(value)
        if asked.clear_atc:
            self.entry = None
            self._show(AtsCtl(0))
        if asked.trigger:
            address = self._control.pair(Reg.DMA_BUS_ADDR_LO, Reg.DMA_BUS_ADDR_HI)
            self.entry = self._translate(address, asked) if self._enabled() else None
            self._show(AtsCtl.SUCCESS | AtsCtl.CACHEABLE if self.entry else AtsCtl(0))

    def _pasid(self, asked: AtsControl) -> int | None:
        """Return the PASID that a request goes with; it goes without while PASID is disabled."""
        return self._control[Reg.PASID_VAL] if asked.pasid and self._pasid_enabled() else None

    def _show(self, result: AtsCtl) -> None:
        entry = self.entry
        self._control[Reg.ATSCTL] = self._control[Reg.ATSCTL] & ~int(_RESULT) | result
        translated = entry.translated if entry else 0
        self._control.set_pair(Reg.ATS_ADDR_LO, Reg.ATS_ADDR_HI, translated)
        self._control[Reg.ATS_RANGE_SIZE] = entry.size if entry else 0
        self._control[Reg.ATS_PERM] = entry.permissions if entry else 0

    def _translate(self, address: int, asked: AtsControl) -> Entry | None:
        """Return the largest range around the address that is mapped alike."""
        best = None
        size = _SMALLEST
        permissions = self._permissions(address & -size, size, asked)
        while size <= _LARGEST and permissions:
            start = address & -size
            if self._permissions(start, size, asked) != permissions:
                break
            best = Entry(start, start, size, permissions, self._pasid(asked))
            size *= 2
        return best

    def _permissions(self, start: int, size: int, asked: AtsControl) -> AtsPerm:
        if not self._bus.reachable(start, size, write=False):
            return AtsPerm(0)
        found = AtsPerm.READ
        if not asked.no_write and self._bus.reachable(start, size, write=True):
            found |= AtsPerm.WRITE
        with_pasid = self._pasid(asked) is not None
        if with_pasid and asked.execute:
            found |= AtsPerm.EXECUTE
        if with_pasid and asked.privileged:
            found |= AtsPerm.PRIVILEGED_READ
            found |= AtsPerm.PRIVILEGED_WRITE if AtsPerm.WRITE in found else AtsPerm(0)
            found |= AtsPerm.PRIVILEGED_EXECUTE if AtsPerm.EXECUTE in found else AtsPerm(0)
        return found

    def invalidate(self, address: int, length: int) -> None:
        """Forget the translation if it covers a byte of the range."""
        entry = self.entry
        if entry is None:
            return
        if address < entry.translated + entry.size and entry.translated < address + length:
            self.entry = None
            self._show(AtsCtl.INVALIDATED)

    def translated(self, transfer: Transfer) -> Transfer:
        """Return the transfer at its translated addresses.

        DmaRefused: NO_ATC_ENTRY unless ATS is enabled and the entry covers the whole range, of the
        transfer's PASID; READ_ONLY when it does not permit writes.
        """
        entry = self.entry if self._enabled() else None
        segments = []
        for each in transfer.segments:
            if entry is None or not (
                entry.pasid == transfer.attributes.pasid
                and entry.untranslated <= each.address
                and each.address + each.length <= entry.untranslated + entry.size
            ):
                raise DmaRefused(DmaReason.NO_ATC_ENTRY, each.address)
            if transfer.writes_memory and AtsPerm.WRITE not in entry.permissions:
                raise DmaRefused(DmaReason.READ_ONLY, each.address)
            address = entry.translated + each.address - entry.untranslated
            segments.append(Segment(address, each.length, each.offset))
        attributes = replace(transfer.attributes, address_type=AddressType.TRANSLATED)
        return replace(transfer, segments=tuple(segments), attributes=attributes)
