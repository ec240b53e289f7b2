# SPDX-License-Identifier: Apache-2.0
"""The STOP state of a function, in which a migration holds it.

A function in STOP must not send an interrupt or a DMA, nor change its own state, and must still
answer (<linux/vfio.h>, enum vfio_device_mig_state; so in the states that are like it). So it sends
nothing, as if bus mastering were off; time stands still for its timers; a BAR is read without side
effects, and a write to one is lost. Configuration space and MSI-X's table, which the client looks
after in any state, take writes. A store by a mapping of the client's own cannot be prevented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.vfio_user.timers import Timers


class Stoppable(Protocol):
    """The members of a function that a stop uses."""

    config: ConfigSpace

    @property
    def timers(self) -> Timers:
        """Return the timers of its model."""

    @property
    def contents(self) -> Mapping[int, BarContent]:
        """Return what its BARs hold, by their numbers."""

    def on_stopped(self) -> None:
        """Act on the end of running."""

    def on_running(self) -> None:
        """Act on the beginning of running."""


class StopState:
    """Stops one function, and lets it run again."""

    def __init__(
        self,
        function: Stoppable,
        cancel: Callable[[], None],
        offer_interrupts: Callable[[], None],
    ) -> None:
        """``cancel`` ends what is under way.

        ``offer_interrupts`` signals a line that is still up, and messages that are pending.
        """
        self._function = function
        self._cancel, self._offer_interrupts = cancel, offer_interrupts

    def stop(self) -> None:
        """Stop the function: DMAs and timers are forgotten, then ``on_stopped`` is called."""
        function = self._function
        function.config.stopped = True
        function.timers.hold()
        self._cancel()
        function.on_stopped()

    def run(self) -> None:
        """Let the function go on. A model that fails to is stopped as before."""
        function = self._function
        function.config.stopped = False
        function.timers.release()
        try:
            function.on_running()
        except Exception:
            function.config.stopped = True
            function.timers.hold()
            self._cancel()
            raise
        self._offer_interrupts()

    def read(self, index: int, offset: int, length: int) -> bytes:
        """Return the bytes of a BAR, without side effects."""
        content = self._function.contents.get(index)
        return bytes(length) if content is None else content.peek(offset, length)
