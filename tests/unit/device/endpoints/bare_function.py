# SPDX-License-Identifier: Apache-2.0
"""A function that has nothing but configuration space, interrupts and a client."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.endpoints.interrupts import Capabilities, Interrupts
from dma_rehearsal.device.pci import msi, msix
from dma_rehearsal.device.pci.base_addresses import BaseAddress
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Header, Identity, Status
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.fakes import FakeClient

VECTORS = 4
BARS = MsixBars(table=0, pba=0, pba_offset=msix.table_size(VECTORS))
LINE = (Irq.INTX, 0)
ON = Command.MEMORY_SPACE | Command.BUS_MASTER


class BareFunction:
    """Configuration space, a client and the interrupts between them."""

    def __init__(self, *, pin: int = 1, messages: int = 0, masks: bool = False) -> None:
        self.config = ConfigSpace(
            Identity(1, 1, 0xFF0000, interrupt_pin=pin), {0: BaseAddress(0x1000)}
        )
        self.start = self.config.add(MsiX(VECTORS, BARS.table, BARS.pba, BARS.pba_offset))
        self.start_msi = None
        if messages:
            self.start_msi = self.config.add(Msi(messages, masks=masks))
        self.client = FakeClient()
        self.events: list[str] = []
        self.interrupts = Interrupts(
            self.config,
            Capabilities(self.start, VECTORS, self.start_msi, messages, BARS),
            client=lambda: self.client,
            event=lambda event, **_: self.events.append(event),
            signal_intx=lambda: self.interrupts.signal_intx(),
            intx_status=lambda: self.interrupts.intx_status(),
        )
        self.command(ON)

    def command(self, command: Command) -> None:
        self.config.write(Header.COMMAND, command.to_bytes(2, "little"))
        self.interrupts.update()

    def control(self, bits: int) -> None:
        self.config.write(self.start + msix.MESSAGE_CONTROL, bits.to_bytes(2, "little"))
        self.interrupts.update()

    def msi_control(self, bits: int) -> None:
        assert self.start_msi is not None
        self.config.write(self.start_msi + msi.MESSAGE_CONTROL, bits.to_bytes(2, "little"))
        self.interrupts.update()

    @property
    def pending(self) -> bytes:
        region = self.interrupts.msix_region
        assert region is not None
        return region.read(0, BARS.pba_offset, bytes(1))

    @property
    def status(self) -> bool:
        return bool(self.config.word(Header.STATUS) & Status.INTERRUPT)
