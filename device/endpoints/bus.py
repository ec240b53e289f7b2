"""The one way to memory: checks what the bus would refuse, and says exactly why."""

from __future__ import annotations

from device.layout import DmaReason
from device.pci.config import ConfigSpace
from device.vfio_user.errors import ReadOnly, Unmapped
from device.vfio_user.model import Client

_ADDRESS_END = 1 << 64


class DmaRefused(Exception):
    """A DMA that moved nothing. ``address`` is the first byte at fault."""

    def __init__(self, reason: DmaReason, address: int) -> None:
        super().__init__(f"{reason.name} at {address:#x}")
        self.reason = reason
        self.address = address


class Bus:
    """Reads and writes memory at bus addresses for one function."""

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        self.client: Client | None = None

    def _views(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if not self._config.bus_master:
            raise DmaRefused(DmaReason.BUS_MASTER_OFF, address)
        if address + length > _ADDRESS_END:
            raise DmaRefused(DmaReason.ADDRESS_WRAP, address)
        if self.client is None:
            raise DmaRefused(DmaReason.UNMAPPED, address)
        try:
            return self.client.memory(address, length, write=write)
        except Unmapped as fault:
            raise DmaRefused(DmaReason.UNMAPPED, fault.address) from fault
        except ReadOnly as fault:
            raise DmaRefused(DmaReason.READ_ONLY, fault.address) from fault

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of memory, taken once. DmaRefused, and then nothing was read."""
        return b"".join(self._views(address, length, write=False))

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` in memory. DmaRefused, and then nothing was written."""
        start = 0
        for view in self._views(address, len(data), write=True):
            view[:] = data[start : start + len(view)]
            start += len(view)
