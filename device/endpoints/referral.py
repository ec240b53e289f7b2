"""An exerciser behind an IOMMU that is the client's: what the map refuses goes to the client.

The DMA map holds what the guest's IOMMU lets through, so a refused DMA is known to be one without
asking. But the IOMMU has not seen it, and raises no fault in the guest. So the page at fault is
asked for by a message, with the real data: the client's IOMMU then refuses it and tells the guest.
Its answer is the outcome. (The guest may map the page in between; what moved then is recorded.)

The ring's transfers are refused by the map alone.
"""

from __future__ import annotations

import zlib
from typing import Final

from device.layout import DmaAttribute, DmaCtl, DmaReason
from device.pci.pcie import DeviceStatus

from .exerciser import Exerciser
from .parts.control import DmaControl
from .parts.transfer import Segment, Transfer
from .requests import DmaRefused

_PAGE: Final = 4096
_REFERRED: Final = (DmaReason.UNMAPPED, DmaReason.READ_ONLY)


class Referring(Exerciser):
    """What `behind_iommu` puts in front of a kind of exerciser."""

    _referred: tuple[Transfer, DmaReason] | None = None  # its refusal is told, not answered yet

    def _ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        place = None
        if reason in _REFERRED and not moved and DmaAttribute.RING not in transfer.asked:
            place = self._first_refused(transfer)
        if place is None:
            super()._ended(transfer, reason, moved, crc32)
            return
        self._referred = transfer, reason
        self._update_pending()
        attributes = transfer.attributes

        def answered(outcome: bytes | DmaRefused) -> None:
            self._answered(place, outcome)

        if transfer.writes_memory:
            data = bytes(self.buffer[place.offset : place.offset + place.length])
            self.bus.write_async(
                place.address, data, answered, attributes, by_message=True, again=True
            )
        else:
            self.bus.read_async(
                place.address, place.length, answered, attributes, by_message=True, again=True
            )

    def _first_refused(self, transfer: Transfer) -> Segment | None:
        """Return the part of the transfer that lies in the first page that the map refuses."""
        for each in transfer.segments:
            done = 0
            while done < each.length:
                address = each.address + done
                length = min(_PAGE - address % _PAGE, each.length - done)
                if not self.bus.reachable(address, length, write=transfer.writes_memory):
                    return Segment(address, length, each.offset + done)
                done += length
        return None

    def _answered(self, place: Segment, outcome: bytes | DmaRefused) -> None:
        if self._referred is None:
            return
        transfer, reason = self._referred
        self._forget()
        if isinstance(outcome, DmaRefused):
            super()._ended(transfer, reason, 0, 0)
            return
        window = slice(place.offset, place.offset + place.length)
        if not transfer.writes_memory:
            self.buffer[window] = outcome
        super()._ended(transfer, reason, place.length, zlib.crc32(self.buffer[window]))

    def _forget(self) -> None:
        self._referred = None
        self._update_pending()

    def _update_pending(self) -> None:
        super()._update_pending()
        if self._referred is not None:
            self.set_device_status(DeviceStatus.TRANSACTIONS_PENDING)

    def _abort(self, reason: DmaReason) -> None:
        if self._referred is not None:
            transfer, _ = self._referred
            self._forget()
            self.bus.cancel()
            super()._ended(transfer, reason, 0, 0)

    def read_dmactl(self) -> int:
        """Return DMACTL; the trigger reads 1 until the client has answered."""
        return super().read_dmactl() | (self._referred is not None) * DmaCtl.TRIGGER

    def write_dmactl(self, value: int) -> None:
        """Run a DMA when the trigger is written, unless one waits for the client's answer."""
        if self._referred is None or DmaControl(value).trigger != DmaCtl.TRIGGER:
            super().write_dmactl(value)

    def on_reset(self) -> None:
        """Forget what was asked."""
        self._abort(DmaReason.RESET)
        super().on_reset()

    def on_command(self) -> None:
        """Forget what was asked when bus mastering ends."""
        if not self.config.bus_master:
            self._abort(DmaReason.BUS_MASTER_OFF)
        super().on_command()

    def on_detach(self) -> None:
        """Forget what was asked."""
        self._abort(DmaReason.CLIENT_GONE)
        super().on_detach()


def behind_iommu(kind: type[Exerciser]) -> type[Exerciser]:
    """Return the kind of exerciser that tells the client of DMA that the map refuses."""
    return type(kind.__name__, (Referring, kind), {})
