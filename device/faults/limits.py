# SPDX-License-Identifier: Apache-2.0
"""Faults of what a device is: its limits, its coherence and its list of capabilities."""

from __future__ import annotations

from dataclasses import replace

from dma_rehearsal.device.exerciser.constraints import CONSTRAINTS
from dma_rehearsal.device.exerciser.transfer import Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaAttribute, DmaReason, Ext
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.pci.power import PowerManagement


class _ConstraintsIgnored(FaultyBehaviour):
    ignored: tuple[Ext, ...] = CONSTRAINTS

    def check(self, transfer: Transfer) -> Transfer:
        limits = {int(each): self.device.extension[each] for each in self.ignored}
        self.device.extension.values.update(dict.fromkeys(limits, 0))
        try:
            return super().check(transfer)
        finally:
            self.device.extension.values.update(limits)


class _MaskNotHonoured(_ConstraintsIgnored):
    ignored = (Ext.ADDRESS_BITS,)


class _BoundaryCrossed(_ConstraintsIgnored):
    ignored = (Ext.BOUNDARY,)


class _AddressWrapped(_MaskNotHonoured):
    """Has no address lines above its mask, and does not look at what should be on them."""

    def check(self, transfer: Transfer) -> Transfer:
        sent = super().check(transfer)
        mask = (1 << (self.device.extension[Ext.ADDRESS_BITS] or 64)) - 1
        return replace(
            sent,
            segments=tuple(each._replace(address=each.address & mask) for each in sent.segments),
        )


class _CoherenceForgotten(FaultyBehaviour):
    """Goes by the caches as a coherent device does, whatever its profile says."""

    def is_coherent(self) -> bool:
        return True


class _SnoopedAllTheSame(FaultyBehaviour):
    """Says of its DMA what its profile says; on the bus the caches follow it."""

    def is_coherent(self) -> bool:
        return True

    def ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        told = DmaAttribute(0) if self.device.profile.coherent else DmaAttribute.NON_COHERENT
        super().ended(replace(transfer, asked=transfer.asked | told), reason, moved, crc32)


class _EnableNoSnoopIgnored(FaultyBehaviour):
    def allows_no_snoop(self) -> bool:
        return True


class _CapabilityHidden(FaultyBehaviour):
    """Leaves Power Management out of the list of capabilities; its registers are still there."""

    def shown_config(self, offset: int, data: bytes) -> bytes:
        data = super().shown_config(offset, data)
        shown = bytearray(data)
        pointer = int(Header.CAPABILITIES)
        while place := self.device.config.read(pointer, 1)[0]:
            if self.device.config.read(place, 1)[0] == PowerManagement.id:
                if offset <= pointer < offset + len(data):
                    shown[pointer - offset] = self.device.config.read(place + 1, 1)[0]
                break
            pointer = place + 1
        return bytes(shown)


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "constraints-ignored": DeviceFault(exerciser=_ConstraintsIgnored),
    "coherence-forgotten": DeviceFault(exerciser=_CoherenceForgotten),
    "non-coherent-snooped": DeviceFault(exerciser=_SnoopedAllTheSame),
    "mask-not-honoured": DeviceFault(exerciser=_MaskNotHonoured),
    "address-wrapped": DeviceFault(exerciser=_AddressWrapped),
    "boundary-crossed": DeviceFault(exerciser=_BoundaryCrossed),
    "cache-enable-ignored": DeviceFault(exerciser=_EnableNoSnoopIgnored),
    "device-capability-hidden": DeviceFault(exerciser=_CapabilityHidden),
}
