# SPDX-License-Identifier: Apache-2.0
"""The hooks of an endpoint: methods that an author overrides, each without effect by itself.

Side effects of registers are not here: they are methods named after their register
(`dma_rehearsal.device.endpoints.registers`). So are the actions of named timers: ``timer_poll`` is
that of ``self.timers.named("poll", seconds)``.
"""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.endpoints.dma import Transaction
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.config import PowerState


class Hooks:
    """Events of a function's life. All come from the thread that serves the function."""

    def on_attach(self) -> None:
        """Act on a client that finished negotiation: messages reach it from now on.

        It maps its memory after this, and a guest turns on bus mastering later still
        (``on_command``). A DMA that is started here by an asynchronous call goes after the answer
        to the negotiation.
        """

    def on_reset(self) -> None:
        """Take state that is not in registers back to its reset state.

        A function level reset, a reset of the bus and one by the client all end here. Registers,
        memory BARs and configuration space have their reset values already, and timers and DMAs
        under way are forgotten. A value stored here stays, and so does a timer that is set.
        """

    def on_command(self) -> None:
        """Act on a write to the command register, such as bus mastering going off.

        D3hot, whose beginning and end call it too, turns that off as ``config.bus_master`` says.
        """

    def on_power(self, state: PowerState) -> None:
        """Act on a change of the power state by software; ``on_command`` follows.

        In D3hot only configuration space answers, and no DMA or interrupt goes. Registers keep
        their values. A reset ends D3hot, too: it calls ``on_reset`` alone.
        """

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note of an access by software, when it is done.

        ``region``: 0-5 BARs, 6 expansion ROM, 7 configuration space.
        """

    def on_refused(self, transaction: Transaction) -> None:
        """Take note of a request to memory that was refused; `bus.transactions` has the others.

        The trace has it already. A limit of the device's own goes there by ``bus.refuse``.
        """

    def on_unmap(self, address: int, length: int) -> None:
        """Act on an unmap: the client takes back a range of bus addresses, in bytes."""

    def on_detach(self) -> None:
        """Act on the end of the connection: memory cannot be reached any more."""

    def on_stopped(self) -> None:
        """Act on the end of running, before the state is saved.

        DMAs that were started are done. Timers with a name wait, and a migration carries them.
        Others, posted work and coroutines are ended, and ``state`` must say how to go on. Until
        ``on_running`` no access reaches a register, a DMA is refused as if bus mastering were off,
        and timers wait: one that is set has all of its time left then.
        """

    def on_load(self) -> None:
        """Act on a state that was loaded; ValueError for a state that the device cannot have.

        It came from the client: a number in it may be any number.
        """

    def on_running(self) -> None:
        """Act on the beginning of running, with the state that was loaded.

        Timers with a name go on by themselves, with the time that they had left; set others again.

        A reset in between has no state to bring, and ends the stop with it.
        """

    def traces_request(self, reason: DmaReason) -> bool:
        """Return whether a request that ended so is in the trace: each is."""
        del reason
        return True


def named_timers(owner: object) -> dict[str, Callable[[], None]]:
    """Return the actions of an owner's named timers: its methods ``timer_<name>``."""
    kind, prefix = type(owner), "timer_"
    names = [each for each in dir(kind) if each.startswith(prefix)]
    return {
        each.removeprefix(prefix): getattr(owner, each)
        for each in names
        if callable(getattr(kind, each))
    }
