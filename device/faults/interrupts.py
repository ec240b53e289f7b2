# SPDX-License-Identifier: Apache-2.0
"""Faults of interrupts: lost, sent twice, or sent to the wrong place."""

from __future__ import annotations

from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import INTXCTL_ASSERT, ExerciserBar, Reg
from dma_rehearsal.device.vfio_user.messages import Irq


class _MsixOfOneVector(FaultyBehaviour):
    """One vector is wrong, and no other: only a test of every vector is sure to find it."""

    def msix(self, vector: int) -> bool:
        if vector == self.device.vectors * 2 // 3:
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
        return self.device.msix(self.device.vectors - 1)


class _MsixDoubled(_MsixOfOneVector):
    """The second message goes with the next register write: at once, QEMU takes two for one."""

    _again: int | None = None

    def wrong_msix(self, vector: int) -> bool:
        self._again = vector
        return self.device.msix(vector)

    def before_write(self, region: int, offset: int, data: bytes) -> None:
        again, self._again = self._again, None
        if again is not None:
            self.device.msix(again)
        super().before_write(region, offset, data)


class _IntxDropped(FaultyBehaviour):
    def send_intx(self) -> bool:
        return False


class _AtIntxctl(FaultyBehaviour):
    """Acts when software has written INTXCTL."""

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        super().accessed(region, offset, data, write=write)
        if write and (region, offset) == (ExerciserBar.CONTROL, Reg.INTXCTL):
            self.wrote_intxctl(asserted=bool(int.from_bytes(data, "little") & INTXCTL_ASSERT))

    def wrote_intxctl(self, *, asserted: bool) -> None:
        """Act as the fault does."""
        raise NotImplementedError


class _IntxDoubled(_AtIntxctl):
    _again = False

    def wrote_intxctl(self, *, asserted: bool) -> None:
        if asserted:
            self._again = True
        elif self._again:
            self._again = False
            self.device.intx(True)


class _IntxMisdirected(_AtIntxctl):
    """Sends the message though MSI-X is not enabled, as it is not where INTx is used."""

    def send_intx(self) -> bool:
        return False

    def wrote_intxctl(self, *, asserted: bool) -> None:
        client = self.device.bus.client
        if asserted and client is not None:
            self.device.trace.event(self.device.name, "msi-x", vector=self.device.vectors - 1)
            client.trigger(Irq.MSIX, self.device.vectors - 1)


class _MsixMaskIgnored(FaultyBehaviour):
    """Sends at once, whatever Function Mask and MSI-X Enable say: nothing is ever pending."""

    def msix(self, vector: int) -> bool:
        client = self.device.bus.client
        if (
            client is None
            or not self.device.config.bus_master
            or not 0 <= vector < self.device.vectors
        ):
            return False
        self.device.trace.event(self.device.name, "msi-x", vector=vector)
        return client.trigger(Irq.MSIX, vector)


class _IntxStorm(FaultyBehaviour):
    def intx_status(self) -> bool:
        return self.device.interrupts.intx.level


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
