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
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.vfio_user.timers import Timers

DRAIN_TURNS = 4  # of the queue, which does all that it has in one if nothing new is started


class Stoppable(Protocol):
    """The members of a function that a stop uses."""

    bus: Bus
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
        finish_held: Callable[[], None],
        cancel: Callable[[], None],
        offer_interrupts: Callable[[], None],
    ) -> None:
        """``finish_held`` lets the action go that HOLD has wait; ``cancel`` ends what is under way.

        ``offer_interrupts`` signals a line that is still up, and messages that are pending.
        """
        self._function, self._finish_held = function, finish_held
        self._cancel, self._offer_interrupts = cancel, offer_interrupts

    def drain(self) -> bool:
        """Do the DMAs that were started; return False when one of them waits for the client.

        And when one starts the next on and on: DRAIN_TURNS have an end.
        """
        self._finish_held()
        queue = self._function.bus.queue
        for _ in range(DRAIN_TURNS):
            if not queue.ready:
                break
            queue.go_on()
        return queue.idle

    def stop(self) -> None:
        """Stop the function; then ``on_stopped`` is called.

        Named timers stay, with the time that they have left. What else is set is forgotten.
        """
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
