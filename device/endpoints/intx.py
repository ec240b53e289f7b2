# SPDX-License-Identifier: Apache-2.0
"""The INTx line of one function (PCI Local Bus 3.0, 2.2.6 and 6.2.2; PCI Express Base 5.0, 6.1.2).

The line is up while any source is. The client is told of a rise, and tells its end of interrupt; a
line that is still up then is a new interrupt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dma_rehearsal.device.endpoints.messages import Event
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Header, Status

_log = logging.getLogger(__name__)


class Intx:
    """The line. ``sources`` says whether another source than the function's own holds it up.

    ``messages_enabled``: MSI-X or MSI is, and the line is not signalled. ``signal`` tells the
    client that the line rose, and ``status`` gives Interrupt Status.
    """

    def __init__(
        self,
        config: ConfigSpace,
        event: Event,
        *,
        sources: Callable[[], bool],
        messages_enabled: Callable[[], bool],
        signal: Callable[[], bool],
        status: Callable[[], bool],
    ) -> None:
        self._config, self._event = config, event
        self._sources, self._messages_enabled = sources, messages_enabled
        self._signal, self._status = signal, status
        self.supported = config.read(Header.INTERRUPT_PIN, 1) != b"\0"
        self._own = self._up = False
        self._told = False  # of a line that the function does not have: once in its life
        self.under_way = False  # an INTx that the client has not ended yet

    @property
    def level(self) -> bool:
        """The line's level: True while any source is up. Assign it to move the function's own."""
        return self._up

    @level.setter
    def level(self, level: bool) -> None:
        self._own = level
        if level and not self.supported and not self._told:
            self._told = True
            _log.warning(
                "the INTx line is up, and is never signalled: the function has no INTx; declare "
                "interrupt_pin=1 in its identity, or send a message"
            )
        self.update()

    @property
    def enabled(self) -> bool:
        """Return whether a line that is up is signalled.

        Interrupt Disable, D3hot, and MSI-X or MSI when it is enabled, keep it from the client until
        they end (PCI Local Bus 3.0, sections 6.2.2 and 6.8).
        """
        config = self._config
        return (
            not config.command & Command.INTX_DISABLE
            and not self._messages_enabled()
            and not config.silent
        )

    def update(self) -> None:
        """Signal a line that is up and enabled, once until the end of that interrupt.

        A second signal in between would have no end of its own.
        """
        up = self._own or (self.supported and self._sources())
        if up != self._up:
            self._up = up
            self._event("intx", level=up)
        if up and not self.under_way and self.enabled:
            self.under_way = self._signal()
        self._config.set_status(Status.INTERRUPT, self._status())

    def end_of_interrupt(self) -> None:
        """Take note that the client ended an INTx: a line that is still up is a new interrupt."""
        self.under_way = False
        self.update()
