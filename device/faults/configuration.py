# SPDX-License-Identifier: Apache-2.0
"""Faults of configuration space."""

from __future__ import annotations

from dma_rehearsal.device.faults.behaviour import FaultyBehaviour
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.pci.power import PowerManagement


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
    "device-capability-hidden": DeviceFault(exerciser=_CapabilityHidden),
}
