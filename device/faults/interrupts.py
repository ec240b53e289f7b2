# SPDX-License-Identifier: Apache-2.0
"""Which interrupts come, and how often."""

from __future__ import annotations

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout import INTXCTL_ASSERT
from dma_rehearsal.device.vfio_user.messages import Irq


class _MsixOfOneVector(Exerciser):
    """One vector is wrong, and no other: only a test of every vector is sure to find it."""

    def msix(self, vector: int) -> bool:
        if vector == self.vectors * 2 // 3:
            return self.wrong_msix(vector)
        return super().msix(vector)

    def wrong_msix(self, vector: int) -> bool:
        """Send what the fault sends."""
        raise NotImplementedError


class _MsixDropped(_MsixOfOneVector):
    def wrong_msix(self, vector: int) -> bool:
        return False


class _MsixMisdirected(_MsixOfOneVector):
    def wrong_msix(self, vector: int) -> bool:
        return Exerciser.msix(self, self.vectors - 1)


class _MsixDoubled(_MsixOfOneVector):
    """The second message goes with the next register write: at once, QEMU takes two for one."""

    _again: int | None = None

    def wrong_msix(self, vector: int) -> bool:
        self._again = vector
        return Exerciser.msix(self, vector)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        again, self._again = self._again, None
        if again is not None:
            Exerciser.msix(self, again)
        super().region_write(index, offset, data)


class _IntxDropped(Exerciser):
    def send_intx(self) -> bool:
        return False


class _IntxDoubled(Exerciser):
    _again = False

    def write_intxctl(self, value: int) -> None:
        super().write_intxctl(value)
        if value & INTXCTL_ASSERT:
            self._again = True
        elif self._again:
            self._again = False
            self.intx(True)


class _IntxMisdirected(_IntxDropped):
    """Sends the message though MSI-X is not enabled, as it is not where INTx is used."""

    def write_intxctl(self, value: int) -> None:
        super().write_intxctl(value)
        client = self.bus.client
        if value & INTXCTL_ASSERT and client is not None:
            self.trace.event(self.name, "msi-x", vector=self.vectors - 1)
            client.trigger(Irq.MSIX, self.vectors - 1)


class _MsixMaskIgnored(Exerciser):
    """Sends at once, whatever Function Mask and MSI-X Enable say: nothing is ever pending."""

    def msix(self, vector: int) -> bool:
        client = self.bus.client
        if client is None or not self.config.bus_master or not 0 <= vector < self.vectors:
            return False
        self.trace.event(self.name, "msi-x", vector=vector)
        return client.trigger(Irq.MSIX, vector)


class _IntxStorm(Exerciser):
    def intx_status(self) -> bool:
        return self.interrupts.level


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "msix-dropped": DeviceFault(exerciser=_MsixDropped),
    "msix-doubled": DeviceFault(exerciser=_MsixDoubled),
    "msix-misdirected": DeviceFault(exerciser=_MsixMisdirected),
    "msix-mask-ignored": DeviceFault(exerciser=_MsixMaskIgnored),
    "intx-dropped": DeviceFault(exerciser=_IntxDropped),
    "intx-doubled": DeviceFault(exerciser=_IntxDoubled),
    "intx-misdirected": DeviceFault(exerciser=_IntxMisdirected),
    "intx-storm": DeviceFault(exerciser=_IntxStorm),
}
