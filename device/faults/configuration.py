# SPDX-License-Identifier: Apache-2.0
"""What configuration space shows."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.endpoint import CONFIG_REGION
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.pci.power import PowerManagement


class _CapabilityHidden(Exerciser):
    """Leaves Power Management out of the list of capabilities; its registers are still there."""

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        data = super().region_read(index, offset, length)
        if index != CONFIG_REGION:
            return data
        shown = bytearray(data)
        pointer = int(Header.CAPABILITIES)
        while place := self.config.read(pointer, 1)[0]:
            if self.config.read(place, 1)[0] == PowerManagement.id:
                if offset <= pointer < offset + length:
                    shown[pointer - offset] = self.config.read(place + 1, 1)[0]
                break
            pointer = place + 1
        return bytes(shown)


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "device-capability-hidden": DeviceFault(exerciser=_CapabilityHidden),
}
