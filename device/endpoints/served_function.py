# SPDX-License-Identifier: Apache-2.0
"""A function as a vfio-user server sees it: the calls of `DeviceModel`, and resets.

`Endpoint` makes the parts of the function, and is what an author works with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dma_rehearsal.device.endpoints.action_hold import ActionHold
from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.coroutines import Coroutines
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.hooks import Hooks
from dma_rehearsal.device.endpoints.interrupts import Interrupts
from dma_rehearsal.device.endpoints.msix_region import MsixRegion
from dma_rehearsal.device.endpoints.stop_state import StopState
from dma_rehearsal.device.endpoints.threads import Threads
from dma_rehearsal.device.pci.base_addresses import ROM
from dma_rehearsal.device.pci.config import CONFIG_SIZE, ConfigSpace
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Client, Mappable
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.work import Work

CONFIG_REGION = 7
_UNCAUGHT_SHOWN = 8  # refusals that a model did not catch, logged with their traceback
_UNCAUGHT_MAX = 1000  # logged at all: a guest decides how many there are

_log = logging.getLogger(__name__)


class ServedFunction(Hooks):
    """A part of `Endpoint`: the ``DeviceModel`` that a server serves."""

    name: str
    vectors: int
    messages: int
    trace: Trace
    config: ConfigSpace
    bus: Bus
    interrupts: Interrupts
    timers: Timers
    posted: Work
    contents: dict[int, BarContent]
    client_accesses: int  # to configuration space and BARs, but for BARs that are mapped
    _coroutines: Coroutines
    _hold: ActionHold
    _msix_region: MsixRegion | None
    _stop_state: StopState
    _threads: Threads
    _uncaught: int
    _acting: bool

    def location(self, region: int, offset: int) -> str:
        """Return a name for an offset of a region, with the name of its register.

        Regions: 0-5 BARs, 6 expansion ROM, 7 configuration space.
        """
        if region == CONFIG_REGION:
            return f"configuration space {offset:#x}"
        content = self.contents.get(region)
        name = "" if content is None else content.name(offset)
        place = f"expansion ROM {offset:#x}" if region == ROM else f"BAR{region} {offset:#x}"
        return f"{place} ({name})" if name else place

    # The DeviceModel: what a server calls.

    def region_size(self, index: int) -> int:
        """See ``DeviceModel.region_size``."""
        return CONFIG_SIZE if index == CONFIG_REGION else self.config.bar_size(index)

    def region_mappable(self, index: int) -> Mappable | None:
        """See ``DeviceModel.region_mappable``."""
        content = self.contents.get(index)
        return None if content is None else content.mappable

    def irq_count(self, index: int) -> int:
        """See ``DeviceModel.irq_count``."""
        if index == Irq.INTX:
            return int(self.config.read(0x3D, 1) != b"\0")
        counts = {Irq.MSI: self.messages, Irq.MSIX: self.vectors, Irq.ERR: 1, Irq.REQ: 1}
        return counts.get(Irq(index), 0)

    def attach(self, client: Client) -> None:
        """See ``DeviceModel.attach``."""
        self.bus.client = client
        self._event("attach")
        self.interrupts.intx.end_of_interrupt()
        self._run_side_effect(self.on_attach)

    def detach(self) -> None:
        """See ``DeviceModel.detach``. DMAs under way end first."""
        try:
            self.bus.leave(lambda: self._hold.finish("client gone"))
            self._run_side_effect(self.on_detach)
        finally:
            self.bus.client = None
            self._threads.end_all()
            self._event("detach")

    def unmapped(self, address: int, length: int) -> None:
        """See ``DeviceModel.unmapped``."""
        if self._hold.in_side_effect and type(self).on_unmap is not Hooks.on_unmap:
            self._hold.finish("order")
        self.on_unmap(address, length)

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """See ``DeviceModel.region_read``. A BAR that does not answer reads all ones.

        That is so in D3hot, and while its space is not enabled (Base 5.0, 7.5.1.1.3), nor the ROM.
        QEMU hands on no such access; another client may. For a function that a migration holds, see
        `StopState`.
        """
        self.client_accesses += 1
        if index == CONFIG_REGION:
            data = self.config.read(offset, length)
        elif not self.config.answers(index):
            return b"\xff" * length
        elif self.config.stopped:
            return self._with_msix(index, offset, self._stop_state.read(index, offset, length))
        else:
            if self._hold.wait is not None:
                self._hold.count_read()
            content = self.contents.get(index)
            data = content.read(offset, length) if content is not None else bytes(length)
            data = self._with_msix(index, offset, data)
        if not self.bus.queue.idle:
            self._settle()
        self.on_access(index, offset, data, write=False)
        return data

    def _with_msix(self, index: int, offset: int, data: bytes) -> bytes:
        region = self._msix_region
        return data if region is None else region.read(index, offset, data)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """See ``DeviceModel.region_write``. A BAR that is stopped, or does not answer, takes none.

        Configuration space and MSI-X's table take writes while the function is stopped.
        """
        self.client_accesses += 1
        if index == CONFIG_REGION:
            self.config.write(offset, data)
            self.interrupts.update()
        elif not self.config.answers(index):
            return
        else:
            if self._msix_region is not None:
                self._msix_region.write(index, offset, data)
            if self.config.stopped:
                return
            content = self.contents.get(index)
            if (
                content is not None
                and (self._hold.on or self._hold.wait is not None)
                and content.acts(offset, len(data))
            ):
                self._act(content, index, offset, data)
                return
            if content is not None:
                outer, self._acting = self._acting, True
                try:  # as `_run_side_effect`; every register write passes here
                    content.write(offset, data)
                except DmaRefused as refusal:
                    self._log_uncaught(refusal)
                finally:
                    self._acting = outer
        if not self.bus.queue.idle:
            self._settle()
        self.on_access(index, offset, data, write=True)

    def _act(self, content: BarContent, index: int, offset: int, data: bytes) -> None:
        """Do a write with a side effect as an action that may wait."""

        def action() -> None:
            self._run_side_effect(lambda: content.write(offset, data))
            self.on_access(index, offset, data, write=True)

        self._hold.act(action, self.location(index, offset))
        self._settle()

    @property
    def dma_ready(self) -> bool:
        """See ``DeviceModel.dma_ready``. An action that waited and was let go is one as well."""
        queue, wait = self.bus.queue, self._hold.wait
        if wait is not None and wait.why is not None:
            return True
        return not queue.idle and queue.ready

    def go_on(self) -> None:
        """See ``DeviceModel.go_on``."""
        self._hold.go_on()
        self.bus.queue.go_on()

    def end_of_interrupt(self) -> None:
        """See ``DeviceModel.end_of_interrupt``."""
        self.interrupts.intx.end_of_interrupt()

    def message_unmasked(self, index: int, subindex: int) -> None:
        """See ``DeviceModel.message_unmasked``."""
        self.interrupts.unmasked(Irq(index), subindex)

    def device_reset(self) -> None:
        """See ``DeviceModel.device_reset``. The client takes its own end of the line down."""
        self.interrupts.intx.under_way = False
        self._reset("device reset")

    # Machinery.

    def _function_level_reset(self) -> None:
        self._reset("function level reset", flr=True)

    def reset_by_device(self) -> None:
        """Reset all but configuration space and MSI-X's table, as a reset register of it does.

        A side effect posts it (`post`): what it would forget includes the side effect's own DMAs.
        """
        self._reset("by the device", config=False)

    def _reset(self, kind: str, *, flr: bool = False, config: bool = True) -> None:
        self._event("reset", kind=kind)
        self._cancel_all("reset")
        self.interrupts.lower()
        if config:
            self.config.reset(flr=flr)
            self.interrupts.reset()
        for content in self.contents.values():
            content.reset()
        self._run_side_effect(self.on_reset)
        self.interrupts.update()

    def _stop(self) -> None:
        """End what a migration does not carry, and say so in the trace."""
        timers = self.timers.waiting - len(self.timers.left())
        posted, coroutines = self.posted.waiting, self._coroutines.running
        if timers or posted or coroutines:
            self._event("not-migrated", timers=timers, posted=posted, coroutines=coroutines)
        self._cancel_all("stopped", keep_named=True)

    def _cancel_all(self, why: str, *, keep_named: bool = False) -> None:
        self._hold.cancel(why)
        self._coroutines.cancel_all()
        self.timers.clear(keep_named=keep_named)
        self.posted.forget()
        self.bus.cancel()

    def _command_changed(self) -> None:
        self._event("command", value=int(self.config.command))
        self._hold.finish("command")
        self._run_side_effect(self.on_command)

    def _power_changed(self) -> None:
        state = self.config.power_state
        self._event("power", state=state.value)
        self._hold.finish("command")
        self._run_side_effect(lambda: self.on_power(state))
        self._run_side_effect(self.on_command)

    def _settle(self) -> None:
        """Do the DMAs that a side effect has started, now that it is done, for one turn."""
        if not self._acting:
            self.bus.queue.go_on()

    def _timer(self, action: Callable[[], None]) -> None:
        self._run_side_effect(action)
        self._settle()

    def _run_side_effect(self, action: Callable[[], None]) -> None:
        """Run a side effect that may end at a refused request: a device goes on after that.

        The trace has the refusal, by which the test is judged; the log says where the model ended.
        """
        outer, self._acting = self._acting, True
        try:
            action()
        except DmaRefused as refusal:
            self._log_uncaught(refusal)
        finally:
            self._acting = outer

    def _log_uncaught(self, refusal: DmaRefused) -> None:
        self._uncaught += 1
        if self._uncaught <= _UNCAUGHT_MAX:
            _log.warning(
                "%s: a refused DMA ended what the model was doing: %s; catch DmaRefused to go on",
                self.name,
                refusal,
                exc_info=refusal if self._uncaught <= _UNCAUGHT_SHOWN else None,
            )

    def _event(self, event: str, **facts: object) -> None:
        self.trace.event(self.name, event, **facts)
