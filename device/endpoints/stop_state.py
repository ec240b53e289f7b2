# SPDX-License-Identifier: Apache-2.0
"""A function that a migration holds: VFIO's STOP, and the states that are like it.

There it must not send an interrupt or a DMA, nor change its own state, and must still answer
(<linux/vfio.h>, enum vfio_device_mig_state). So the function sends nothing, as if bus mastering
were off; time stands still for its timers; a BAR is read without side effects, and a write to one
is lost. Configuration space and MSI-X's table, which the client looks after in any state, take
writes. What a client stores by a mapping of its own, nobody can keep from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint


class Standstill:
    """Holds one function, and lets it go."""

    def __init__(
        self,
        function: Endpoint,
        cancel: Callable[[], None],
        offer_interrupts: Callable[[], None],
    ) -> None:
        """``cancel`` ends what is under way.

        ``offer_interrupts`` signals a line that is still up, and messages that are pending.
        """
        self._function = function
        self._cancel, self._offer_interrupts = cancel, offer_interrupts

    def begin(self) -> None:
        """Hold the function: what is under way is forgotten, before its author is told."""
        function = self._function
        function.config.stopped = True
        function.timers.hold()
        self._cancel()
        function.on_stopped()

    def end(self) -> None:
        """Let it go on. A model that fails to is held as before."""
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
        """Return what a BAR holds."""
        content = self._function.contents.get(index)
        return bytes(length) if content is None else content.peek(offset, length)
