# SPDX-License-Identifier: Apache-2.0
"""The interrupts of one function: MSI-X, MSI and INTx.

PCI Local Bus 3.0, sections 6.2.2 and 6.8. A vfio-user server sees these parts of them: Interrupt
Disable, MSI-X Enable, Function Mask, MSI Enable and Multiple Message Enable, which software writes
to configuration space; and for each message, whether its client takes it: an eventfd, and SET_IRQS'
masks. The MSI-X table itself is the client's. QEMU keeps it, masks included, and sends none of it
here; a vector that the guest has not unmasked yet has no eventfd. QEMU hands on reads of the
pending bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.pci import msi, msix
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Status
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Client

_NAMES = {Irq.MSIX: "msi-x", Irq.MSI: "msi"}
_VECTOR_CONTROL = 12  # of a table's entry
_MASKED = 1  # its bit 0; 1 at reset


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where the function's capabilities begin, and the messages of each; None where it lacks one.

    ``bars``: where MSI-X's table and pending bits are.
    """

    msix: int | None
    vectors: int
    msi: int | None
    messages: int
    bars: MsixBars | None = None


class Interrupts:
    """Sends the interrupts of one function.

    ``event`` writes to the trace: a name and facts; before the client gets the interrupt, for a
    guest that got it may end its test before this goes on. ``signal_intx`` tells the client that
    the line rose, and ``intx_status`` gives Interrupt Status.
    """

    def __init__(
        self,
        config: ConfigSpace,
        capabilities: Capabilities,
        client: Callable[[], Client | None],
        event: Callable[..., None],
        *,
        signal_intx: Callable[[], bool],
        intx_status: Callable[[], bool],
    ) -> None:
        self._config, self._event = config, event
        self._client = client
        self._signal_intx, self._intx_status = signal_intx, intx_status
        self.level = False  # of INTx
        self.under_way = False  # an INTx that the client has not ended yet
        self.messages = Messages(config, capabilities, client, event)
        self.msix_region = None
        if capabilities.bars is not None and capabilities.vectors:
            self.msix_region = MsixRegion(
                capabilities.bars, capabilities.vectors, self.messages.pending_bits
            )

    def msix(self, vector: int) -> bool:
        """Send an MSI-X message; return whether it went.

        A message is a memory write, so it needs bus mastering; and MSI-X Enable. Masked, by
        software or by the client's lack of an eventfd, it is pending: its bit is set in the Pending
        Bit Array, and it goes when it is unmasked. A vector that the function does not have is not
        sent.
        """
        return self.messages.send(Irq.MSIX, vector)

    def msi(self, message: int) -> bool:
        """Send an MSI message, as ``msix`` does, while software has MSI enabled.

        Only the messages that software allocated (Multiple Message Enable) are sent.
        """
        return self.messages.send(Irq.MSI, message)

    def intx(self, level: bool) -> None:
        """Assert or deassert the function's INTx line.

        Interrupt Disable, D3hot, and MSI-X or MSI when it is enabled, keep it from the client until
        they end (PCI Local Bus 3.0, sections 6.2.2 and 6.8). Interrupt Status shows it all the
        same.
        """
        if level != self.level:
            self._event("intx", level=level)
        self.level = level
        self._update_intx()

    def signal_intx(self) -> bool:
        """Tell the client that the line rose; return whether it takes note."""
        client = self._client()
        return client is not None and client.trigger(Irq.INTX, 0)

    def intx_status(self) -> bool:
        """Return Interrupt Status: our line is up, or the client's end of it still is.

        QEMU holds the guest's line up from the signal on until the guest accesses a BAR, then sends
        the end of interrupt. A handler that asks before would otherwise find a line that is up and
        nobody's, over and over.
        """
        return self.level or self.under_way

    def end_of_interrupt(self) -> None:
        """Take note that the client ended an INTx: a line that is still up is a new interrupt."""
        self.under_way = False
        self._update_intx()

    def unmasked(self, kind: Irq, number: int) -> None:
        """Take note that the client unmasked a message: one that is pending is sent."""
        self.messages.unmasked(kind, number)

    def update(self) -> None:
        """Send what configuration space allows by now, and forget what it disables."""
        self._update_intx()
        self.messages.update()

    def reset(self) -> None:
        """Forget pending messages, and mask each vector; ``intx`` takes the line down."""
        self.messages.reset()
        if self.msix_region is not None:
            self.msix_region.reset()

    def _update_intx(self) -> None:
        """Signal a line that is up and let through, once until the end of that interrupt.

        A second signal in between would have no end of its own.
        """
        if self.level and not self.under_way and not self._held_back():
            self.under_way = self._signal_intx()
        self._config.set_status(Status.INTERRUPT, self._intx_status())

    def _held_back(self) -> bool:
        disabled = bool(self._config.command & Command.INTX_DISABLE)
        return disabled or self.messages.enabled or self._config.silent


class Messages:
    """Sends MSI-X and MSI messages while software allows it, and keeps those that are masked."""

    def __init__(
        self,
        config: ConfigSpace,
        capabilities: Capabilities,
        client: Callable[[], Client | None],
        event: Callable[..., None],
    ) -> None:
        self._config, self._capabilities = config, capabilities
        self._client, self._event = client, event
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

        Masked, it is pending, and goes when it is unmasked; to send it again changes nothing. It is
        neither sent nor kept without Enable or bus mastering, for it is a write to memory; nor is a
        message that the function does not have, or that software did not allocate.
        """
        if not self._config.bus_master or not 0 <= number < self._allowed(kind):
            return False
        if self._masked(kind) or not self._armed(kind, number):
            if (kind, number) not in self._pending:
                self._event("pending", interrupt=_NAMES[kind], vector=number)
                self._pending[kind, number] = None
            return False
        return self._signal(kind, number)

    def _armed(self, kind: Irq, number: int) -> bool:
        client = self._client()
        return client is not None and client.armed(kind, number)

    def _signal(self, kind: Irq, number: int) -> bool:
        client = self._client()
        self._event(_NAMES[kind], vector=number)
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

    def __init__(self, bars: MsixBars, vectors: int, pending_bits: Callable[[], bytes]) -> None:
        self.bars = bars
        self._pending_bits = pending_bits
        self._table = bytearray(msix.table_size(vectors))
        self._table_end = bars.table_offset + len(self._table)
        self._pba_end = bars.pba_offset + msix.pba_size(vectors)
        self.reset()

    def reset(self) -> None:
        """Mask each vector, and forget address and data."""
        self._table[:] = bytes(len(self._table))
        self._table[_VECTOR_CONTROL :: msix.TABLE_ENTRY_SIZE] = bytes((_MASKED,)) * (
            len(self._table) // msix.TABLE_ENTRY_SIZE
        )

    def ranges(self) -> tuple[tuple[int, int, int, str], ...]:
        """Return the table's BAR, offset, bytes and name, then the pending bits'."""
        bars = self.bars
        table = bars.table, bars.table_offset, len(self._table), "MSI-X's table"
        size = self._pba_end - bars.pba_offset
        return table, (bars.pba, bars.pba_offset, size, "MSI-X's pending bits")

    def read(self, bar: int, offset: int, data: bytes) -> bytes:
        """Return what a read at ``offset`` of a BAR shows, in place of the BAR's own ``data``."""
        bars, end = self.bars, offset + len(data)
        if bar == bars.table and offset < self._table_end and end > bars.table_offset:
            data = _over(data, offset, self._table, bars.table_offset)
        if bar == bars.pba and offset < self._pba_end and end > bars.pba_offset:
            data = _over(data, offset, self._pending_bits(), bars.pba_offset)
        return data

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Take what is written to the table."""
        start = self.bars.table_offset
        first, last = max(offset, start), min(offset + len(data), self._table_end)
        if bar == self.bars.table and first < last:
            self._table[first - start : last - start] = data[first - offset : last - offset]


def _over(data: bytes, offset: int, shown: bytes | bytearray, start: int) -> bytes:
    """Return ``data``, which lies at ``offset``, with what is ``shown`` from ``start`` on."""
    first, last = max(offset, start), min(offset + len(data), start + len(shown))
    middle = bytes(shown[first - start : last - start])
    return data[: first - offset] + middle + data[last - offset :]
