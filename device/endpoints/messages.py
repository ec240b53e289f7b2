# SPDX-License-Identifier: Apache-2.0
"""Message signalled interrupts of one function: MSI-X and MSI, each with its messages.

PCI Local Bus 3.0, section 6.8; PCI Express Base 5.0, section 6.1.4. A message is a write to memory:
without bus mastering it is neither sent nor kept. A masked message is pending, and is sent at its
unmask, once. A message is masked by software (MSI-X's Function Mask, MSI's Mask Bits), or because
the client has no eventfd for it or has masked it (`Client.armed`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import ClassVar

from dma_rehearsal.device.pci import msi, msix
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Client

_log = logging.getLogger(__name__)
_EVERY = -1  # the masks of all messages


Event = Callable[..., None]  # writes an event to the trace: a name and facts


class Message:
    """One message of MSI-X or MSI: ``msix[n]``, ``msi[n]``."""

    __slots__ = ("_of", "number")

    def __init__(self, of: Messages, number: int) -> None:
        self._of, self.number = of, number

    def send(self) -> bool:
        """Send it; return whether it went. See ``Messages.send``."""
        return self._of.send(self.number)

    def clear(self) -> None:
        """Forget a pending message: software has served the events behind it.

        Base 5.0, section 6.1.4.5, requires this where software serves a source that is masked.
        """
        self._of.clear(self.number)

    @property
    def masked(self) -> bool:
        """Return whether a message that is sent now would be pending."""
        return self._of.is_masked(self.number)

    @property
    def pending(self) -> bool:
        """Return whether it was sent while it was masked, and waits for its unmask."""
        return self._of.is_pending(self.number)


class Messages:
    """The messages of one kind. ``supported``: how many the function declares, perhaps none.

    ``start``: where its capability begins.
    """

    irq: ClassVar[Irq]
    name: ClassVar[str]
    declared_by: ClassVar[str]

    def __init__(
        self,
        config: ConfigSpace,
        start: int | None,
        supported: int,
        client: Callable[[], Client | None],
        event: Event,
    ) -> None:
        self._config, self._client, self._event = config, client, event
        self._start, self.supported = start, supported if start is not None else 0
        self._messages = [Message(self, number) for number in range(self.supported)]
        self._pending: dict[int, None] = {}  # in the order in which they were sent
        # What configuration space says; `update` takes note of it, for every interrupt asks.
        self.enabled = False
        self._told = False  # of a message that the function does not have: once in its life
        self._allowed = self._masks = 0

    def __getitem__(self, number: int) -> Message:
        """Return a message. IndexError for one that the function does not declare."""
        if not 0 <= number < self.supported:
            raise IndexError(
                f"{self.name} message {number}: the function has {self.supported}; "
                f"declare {self.declared_by} for it"
            )
        return self._messages[number]

    def __iter__(self) -> Iterator[Message]:
        """Return the messages that the function declares, in order."""
        return iter(self._messages)

    def send(self, number: int) -> bool:
        """Send a message; return whether it went.

        A masked message is pending; to send it again changes nothing. A message is neither sent nor
        kept while the kind is not enabled or bus mastering is off, where the function does not have
        it, and where software did not allocate it.
        """
        if not 0 <= number < self._allowed or not self._config.bus_master:
            if not 0 <= number < self.supported and not self._told:
                self._told = True
                _log.warning(
                    "%s message %s is never sent: the function has %s; look at the number, or "
                    "declare %s",
                    *(self.name, number, self.supported, self.declared_by),
                )
            return False
        client = self._client()
        if client is None or self._masks >> number & 1 or not client.armed(self.irq, number):
            if number not in self._pending:
                self._event("pending", interrupt=self.name, vector=number)
                self._pending[number] = None
                self._pending_changed()
            return False
        if self._pending:
            self.clear(number)
        self._event(self.name, vector=number)
        return client.trigger(self.irq, number)

    def clear(self, number: int) -> None:
        """Forget that a message is pending. Nothing, if it is not."""
        if number in self._pending:
            del self._pending[number]
            self._pending_changed()

    def is_pending(self, number: int) -> bool:
        """Return whether a message waits for its unmask."""
        return number in self._pending

    def is_masked(self, number: int) -> bool:
        """Return whether a message is masked, by software or by the client."""
        client = self._client()
        return bool(
            client is None or self._masks >> number & 1 or not client.armed(self.irq, number)
        )

    def unmasked(self, number: int) -> None:
        """Send a message that is pending and may go by now."""
        if number in self._pending and self._config.bus_master and not self.is_masked(number):
            self.send(number)

    def update(self) -> None:
        """Do what configuration space says: forget what is disabled, send what may go."""
        self._read_control()
        for number in [*self._pending]:
            if number >= self._allowed:
                self.clear(number)
            else:
                self.unmasked(number)

    def reset(self) -> None:
        """Forget what is pending, and read the capability again."""
        self._pending.clear()
        self._pending_changed()
        self._read_control()

    @property
    def pending_bits(self) -> int:
        """Return a bit for each message that is pending."""
        return sum(1 << number for number in self._pending)

    def _read_control(self) -> None:
        """Take note of the capability's control and masks."""
        raise NotImplementedError

    def _pending_changed(self) -> None:
        """Show the pending bits where software reads them."""


class MsixMessages(Messages):
    """MSI-X (PCI Local Bus 3.0, section 6.8.2)."""

    irq = Irq.MSIX
    name = "msi-x"
    declared_by = "more vectors"

    @property
    def count(self) -> int:
        """Return how many vectors there are, 0 to 2048; each can be sent while MSI-X is enabled."""
        return self.supported

    def _read_control(self) -> None:
        if self._start is None:
            return
        control = self._config.word(self._start + msix.MESSAGE_CONTROL)
        self.enabled = bool(control & msix.ENABLE)
        self._allowed = self.supported if self.enabled else 0
        self._masks = _EVERY if control & msix.FUNCTION_MASK else 0


class MsiMessages(Messages):
    """MSI (section 6.8.1)."""

    irq = Irq.MSI
    name = "msi"
    declared_by = "more messages"

    @property
    def count(self) -> int:
        """Return how many messages software allocated (Multiple Message Enable); 0: disabled."""
        return self._allowed

    def _read_control(self) -> None:
        if self._start is None:
            return
        control = self._config.word(self._start + msi.MESSAGE_CONTROL)
        self.enabled = bool(control & msi.ENABLE)
        self._allowed = min(msi.allowed(control), self.supported)
        self._masks = msi.masks(self._config, self._start)

    def _pending_changed(self) -> None:
        if self._start is not None:
            msi.show_pending(self._config, self._start, self.pending_bits)
