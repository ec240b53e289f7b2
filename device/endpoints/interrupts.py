# SPDX-License-Identifier: Apache-2.0
"""The interrupts of one function: MSI-X, MSI, INTx, and lines that go whichever way is enabled.

PCI Local Bus 3.0, sections 6.2.2 and 6.8. A vfio-user server sees these parts of them: Interrupt
Disable, MSI-X Enable, Function Mask, MSI Enable, Multiple Message Enable and MSI's Mask Bits, which
software writes to configuration space; and for each message, whether its client takes it: an
eventfd, and SET_IRQS' masks. The MSI-X table itself is the client's. QEMU keeps it, masks included,
and sends none of it here; a vector that the guest has not unmasked yet has no eventfd. QEMU hands
on reads of the pending bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.endpoints.interrupt_lines import Line
from dma_rehearsal.device.endpoints.intx import Intx
from dma_rehearsal.device.endpoints.messages import Event, MsiMessages, MsixMessages
from dma_rehearsal.device.endpoints.msix_region import MsixRegion
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.pci.msix import MAX_VECTORS
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Client

_log = logging.getLogger(__name__)


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
    """The interrupts of one function: ``msix``, ``msi``, ``intx``, and ``line``.

    ``event`` writes to the trace: a name and facts; before the client gets the interrupt, for a
    guest that got it may end its test before this goes on. ``signal_intx`` tells the client that
    the line rose, and ``intx_status`` gives Interrupt Status.
    """

    def __init__(
        self,
        config: ConfigSpace,
        capabilities: Capabilities,
        client: Callable[[], Client | None],
        event: Event,
        *,
        signal_intx: Callable[[], bool],
        intx_status: Callable[[], bool],
    ) -> None:
        self._config, self._client = config, client
        has = capabilities
        self.msix = MsixMessages(config, has.msix, has.vectors, client, event)
        self.msi = MsiMessages(config, has.msi, has.messages, client, event)
        self._way: MsixMessages | MsiMessages | None = None  # None: INTx
        self._lines: dict[int, Line] = {}
        self._told = False  # of a line without a way: once in the function's life
        self.intx = Intx(
            config,
            event,
            sources=self._any_line,
            messages_enabled=lambda: self._way is not None,
            signal=signal_intx,
            status=intx_status,
        )
        self.msix_region = None
        if has.bars is not None and has.vectors:
            self.msix_region = MsixRegion(has.bars, has.vectors, lambda: self.msix.pending_bits)

    def line(self, number: int) -> Line:
        """Return a source of interrupts, the same object for the same number.

        ``number``: its MSI-X vector, or its MSI message, which is taken modulo those that software
        allocated. ValueError for a vector that the function does not have, and for a function
        without any interrupt; TypeError for what is not a number.
        """
        found = self._lines.get(number)
        if found is None:
            self._check_line(number)
            found = self._lines[number] = Line(self, number)
        return found

    def _check_line(self, number: int) -> None:
        if not isinstance(number, int):
            raise TypeError(f"line({number!r}): a line has a number, an int: 0 for the first")
        vectors = self.msix.supported
        if not (vectors or self.msi.supported or self.intx.supported):
            raise ValueError(
                f"line({number}): the function has no interrupt; declare vectors, messages, or "
                "interrupt_pin=1 in its identity"
            )
        if not 0 <= number < (vectors or MAX_VECTORS):
            remedy = f"declare vectors = {number + 1}" if 0 <= number < MAX_VECTORS else "take one"
            raise ValueError(
                f"line({number}): lines are numbered 0 to {(vectors or MAX_VECTORS) - 1}; "
                f"{remedy}, or use a number of these"
            )

    def _any_line(self) -> bool:
        """Return whether a line holds INTx up: not while messages are sent for them."""
        return self._way is None and any(each.level for each in self._lines.values())

    def rose(self, line: Line) -> bool:
        """Tell of a line that is up, by the way that is enabled. Return whether it went."""
        way = self._way
        if way is None:
            if not self.intx.supported:
                self._tell_of_no_way(line)
            self.intx.update()
            return self.intx.supported and self.intx.enabled
        number = _message(way, line)
        went = way.send(number)
        line.told = went or way.is_pending(number)
        return went

    def _tell_of_no_way(self, line: Line) -> None:
        """Warn once of a line that rose while a driver was at work and had enabled no message."""
        if self._told or not self._config.bus_master:
            return
        self._told = True
        _log.warning(
            "line(%s) is up, and no interrupt tells of it: software has enabled neither MSI-X nor "
            "MSI, and the function has no INTx; look at the driver's order, or declare "
            "interrupt_pin=1 in its identity",
            line.number,
        )

    def fell(self, line: Line) -> None:
        """Take note that a line is down: INTx falls with the last, a pending message is cleared."""
        way = self._way
        if way is None:
            self.intx.update()
            return
        number = _message(way, line)
        if way.is_pending(number) and not any(
            each.level and _message(way, each) == number for each in self._lines.values()
        ):
            way.clear(number)

    def signal_intx(self) -> bool:
        """Tell the client that the line rose; return whether it takes note."""
        return self.signal(Irq.INTX)

    def signal(self, irq: Irq) -> bool:
        """Signal an interrupt that is not a message; return whether the client takes note."""
        client = self._client()
        return client is not None and client.trigger(irq, 0)

    def intx_status(self) -> bool:
        """Return Interrupt Status: our line is up, or the client's end of it still is.

        QEMU holds the guest's line up from the signal on until the guest accesses a BAR, then sends
        the end of interrupt. A handler that asks before would otherwise find a line that is up and
        nobody's, over and over.
        """
        return self.intx.level or self.intx.under_way

    def unmasked(self, kind: Irq, number: int) -> None:
        """Take note that the client unmasked a message: one that is pending is sent."""
        messages = self.msix if kind is Irq.MSIX else self.msi
        messages.unmasked(number)

    def update(self) -> None:
        """Send what configuration space allows by now, and forget what it disables."""
        self.msix.update()
        self.msi.update()
        way = self._enabled()
        if way is not self._way:
            self._way = way
            for line in self._lines.values():
                line.told = False
        self.intx.update()
        if way is not None:
            for line in self._lines.values():
                if line.level and not line.told:
                    self.rose(line)

    def _enabled(self) -> MsixMessages | MsiMessages | None:
        if self.msix.enabled:
            return self.msix
        return self.msi if self.msi.enabled else None

    def lower(self) -> None:
        """Take down every line, INTx as well: a reset begins."""
        for line in self._lines.values():
            line.forget()
        self.intx.level = False

    def reset(self) -> None:
        """Forget pending messages, and mask each vector; ``lower`` takes the lines down."""
        self.msix.reset()
        self.msi.reset()
        self._way = self._enabled()
        if self.msix_region is not None:
            self.msix_region.reset()


def _message(way: MsixMessages | MsiMessages, line: Line) -> int:
    """Return the number of a line's message: folded into those that are allocated."""
    return line.number % way.count if way.count else line.number
