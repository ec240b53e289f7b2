"""The one way to memory: checks what the bus would refuse, and says exactly why."""

from __future__ import annotations

from collections.abc import Callable

from device.layout import DmaReason
from device.pci.config import ConfigSpace
from device.vfio_user.errors import ClientFault, MemoryFault, ReadOnly, Unmapped, Withdrawn
from device.vfio_user.model import Client, Dma

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

    # The same, where the client's help may be needed: memory that it mapped without a descriptor.

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], None],
        *,
        by_message: bool = False,
    ) -> None:
        """Read memory, and call ``on_done`` once with a copy of it or the refusal.

        Set what ``on_done`` clears (busy, TransactionPending) before the call: in mapped memory the
        DMA is done, and ``on_done`` was called, when this returns; otherwise it comes later, from
        the same thread, while registers are read and written as ever. These DMAs are done in the
        order they were started. After ``cancel``, which a reset does, ``on_done`` never comes.
        ``by_message``: see ``Dma``.
        """
        self._start(address, length, None, on_done, by_message)

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], None],
        *,
        by_message: bool = False,
    ) -> None:
        """Write memory; ``on_done`` gets no bytes, or the refusal. See ``read_async``.

        A write by messages that fails has moved what lies before the refusal's address.
        """
        self._start(address, len(data), data, on_done, by_message)

    def cancel(self) -> None:
        """Forget every DMA that ``read_async`` and ``write_async`` started."""
        if self.client is not None:
            self.client.cancel_dma()

    def _start(
        self,
        address: int,
        length: int,
        data: bytes | None,
        on_done: Callable[[bytes | DmaRefused], None],
        by_message: bool,
    ) -> None:
        if not self._config.bus_master:
            on_done(DmaRefused(DmaReason.BUS_MASTER_OFF, address))
        elif address + length > _ADDRESS_END:
            on_done(DmaRefused(DmaReason.ADDRESS_WRAP, address))
        elif self.client is None:
            on_done(DmaRefused(DmaReason.UNMAPPED, address))
        else:

            def done(outcome: bytes | MemoryFault) -> None:
                on_done(_refusal(outcome) if isinstance(outcome, MemoryFault) else outcome)

            self.client.start_dma(
                Dma(address, length, data, done, by_message, lambda: self._config.bus_master)
            )


def _refusal(fault: MemoryFault) -> DmaRefused:
    if isinstance(fault, ClientFault):
        return DmaRefused(DmaReason.CLIENT_ERROR, fault.address)
    if isinstance(fault, Withdrawn):
        return DmaRefused(DmaReason.BUS_MASTER_OFF, fault.address)
    reason = DmaReason.READ_ONLY if isinstance(fault, ReadOnly) else DmaReason.UNMAPPED
    return DmaRefused(reason, fault.address)
