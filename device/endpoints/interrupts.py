# SPDX-License-Identifier: Apache-2.0
"""MSI-X and MSI of one function: which messages go, which are pending, and what MSI-X's BARs show.

PCI Local Bus 3.0, section 6.8. What a server of vfio-user sees of it: MSI-X Enable, Function Mask,
MSI Enable and Multiple Message Enable, which software writes to configuration space; and of each
message, whether its client takes it: an eventfd, and SET_IRQS' masks. The table itself is the
client's. QEMU keeps it, masks included, and sends none of it here; a vector that the guest has not
unmasked yet has no eventfd. Reads of the pending bits QEMU hands on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.pci import msi, msix
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Client

_NAMES = {Irq.MSIX: "msi-x", Irq.MSI: "msi"}
_VECTOR_CONTROL = 12  # of a table's entry
_MASKED = 1  # its bit 0; 1 at reset


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where the function's capabilities begin, and the messages of each. None: it has it not."""

    msix: int | None
    vectors: int
    msi: int | None
    messages: int


class MessageInterrupts:
    """Sends messages while software lets it, and keeps those that are masked.

    ``tell`` is told of each: what became of it, the message's kind and number; before the client
    is, for a guest that got the message may end its test before this goes on.
    """

    def __init__(
        self,
        config: ConfigSpace,
        capabilities: Capabilities,
        client: Callable[[], Client | None],
        tell: Callable[[str, str, int], None],
    ) -> None:
        self._config, self._capabilities = config, capabilities
        self._client, self._tell = client, tell
        self._pending: dict[tuple[Irq, int], None] = {}  # in the order in which they were sent

    @property
    def enabled(self) -> bool:
        """Return whether MSI-X or MSI is: then INTx is not signalled."""
        return bool(self._allowed(Irq.MSIX) or self._allowed(Irq.MSI))

    def _allowed(self, kind: Irq) -> int:
        """Return how many messages of a kind software allows; 0 while it is not enabled."""
        has = self._capabilities
        if kind is Irq.MSIX:
            if has.msix is None:
                return 0
            control = self._config.word(has.msix + msix.MESSAGE_CONTROL)
            return has.vectors if control & msix.ENABLE else 0
        if has.msi is None:
            return 0
        return min(msi.allowed(self._config.word(has.msi + msi.MESSAGE_CONTROL)), has.messages)

    def _masked(self, kind: Irq) -> bool:
        """Return whether all vectors are masked at once."""
        start = self._capabilities.msix
        if kind is not Irq.MSIX or start is None:
            return False
        return bool(self._config.word(start + msix.MESSAGE_CONTROL) & msix.FUNCTION_MASK)

    def send(self, kind: Irq, number: int) -> bool:
        """Send a message; return whether it went.

        Masked, it is pending, and goes when it is unmasked; again is nothing. It is not sent, nor
        kept, without Enable or bus mastering, for it is a write to memory; nor is one that the
        function does not have, or that software did not allocate.
        """
        if not self._config.bus_master or not 0 <= number < self._allowed(kind):
            return False
        if self._masked(kind) or not self._armed(kind, number):
            if (kind, number) not in self._pending:
                self._tell("pending", _NAMES[kind], number)
                self._pending[kind, number] = None
            return False
        return self._signal(kind, number)

    def _armed(self, kind: Irq, number: int) -> bool:
        client = self._client()
        return client is not None and client.armed(kind, number)

    def _signal(self, kind: Irq, number: int) -> bool:
        client = self._client()
        self._tell("sent", _NAMES[kind], number)
        return client is not None and client.trigger(kind, number)

    def unmasked(self, kind: Irq, number: int) -> None:
        """Send a message that is pending and may go by now."""
        if (
            (kind, number) in self._pending
            and self._config.bus_master
            and not self._masked(kind)
            and self._armed(kind, number)
        ):
            del self._pending[kind, number]
            self._signal(kind, number)

    def update(self) -> None:
        """Do what configuration space says by now: forget what is disabled, send what may go."""
        if not self._pending:
            return
        for kind, number in [*self._pending]:
            if number >= self._allowed(kind):
                del self._pending[kind, number]
            else:
                self.unmasked(kind, number)

    def reset(self) -> None:
        """Forget what is pending."""
        self._pending.clear()

    def pending_bits(self) -> bytes:
        """Return the Pending Bit Array of MSI-X."""
        bits = sum(1 << number for kind, number in self._pending if kind is Irq.MSIX)
        return bits.to_bytes(msix.pba_size(self._capabilities.vectors), "little")


class MsixRegion:
    """MSI-X's table and pending bits as their BARs show them, whatever else lies there.

    The table holds what is written to it, and has no effect: see this module. ``pending_bits``
    gives the other, which software cannot write.
    """

    def __init__(self, place: MsixBars, vectors: int, pending_bits: Callable[[], bytes]) -> None:
        self.place = place
        self._pending_bits = pending_bits
        self._table = bytearray(msix.table_size(vectors))
        self._table_end = place.table_offset + len(self._table)
        self._pba_end = place.pba_offset + msix.pba_size(vectors)
        self.reset()

    def reset(self) -> None:
        """Mask each vector, and forget address and data."""
        self._table[:] = bytes(len(self._table))
        self._table[_VECTOR_CONTROL :: msix.TABLE_ENTRY_SIZE] = bytes((_MASKED,)) * (
            len(self._table) // msix.TABLE_ENTRY_SIZE
        )

    def ranges(self) -> tuple[tuple[int, int, int, str], ...]:
        """Return the table's BAR, offset, bytes and name, then the pending bits'."""
        place = self.place
        table = place.table, place.table_offset, len(self._table), "MSI-X's table"
        size = self._pba_end - place.pba_offset
        return table, (place.pba, place.pba_offset, size, "MSI-X's pending bits")

    def read(self, bar: int, offset: int, data: bytes) -> bytes:
        """Return what a read at ``offset`` of a BAR shows, in place of the BAR's own ``data``."""
        place, end = self.place, offset + len(data)
        if bar == place.table and offset < self._table_end and end > place.table_offset:
            data = _over(data, offset, self._table, place.table_offset)
        if bar == place.pba and offset < self._pba_end and end > place.pba_offset:
            data = _over(data, offset, self._pending_bits(), place.pba_offset)
        return data

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Take what is written to the table."""
        start = self.place.table_offset
        first, last = max(offset, start), min(offset + len(data), self._table_end)
        if bar == self.place.table and first < last:
            self._table[first - start : last - start] = data[first - offset : last - offset]


def _over(data: bytes, offset: int, shown: bytes | bytearray, start: int) -> bytes:
    """Return ``data``, which lies at ``offset``, with what is ``shown`` from ``start`` on."""
    first, last = max(offset, start), min(offset + len(data), start + len(shown))
    middle = bytes(shown[first - start : last - start])
    return data[: first - offset] + middle + data[last - offset :]
