# SPDX-License-Identifier: Apache-2.0
"""Endpoint: the base class of every device model. It has all that a PCI Express function needs.

    class Adder(Endpoint):
        identity = Identity(vendor_id=0x1234, device_id=0x0ADD, class_code=0xFF0000)
        bars = {0: RegisterBar((Register(Reg.SUM, Access.RW),))}
        vectors = 1

        def write_sum(self, value: int) -> None:
            self.msix(0)

The author declares identity, BARs and registers, overrides hooks (`Hooks`) and side effects of
registers, and uses ``bus``, ``interrupts`` and ``timers``. The rest of this module serves them to
the vfio-user server (`DeviceModel`): configuration space, accesses of any width, resets, the trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from dma_rehearsal.device.endpoints import declaration
from dma_rehearsal.device.endpoints.action_hold import ActionHold
from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.bar_memory import Memory, MemoryData, SharedMemory
from dma_rehearsal.device.endpoints.bars import Bars, MsixBars, Rom, base_addresses
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.contents import contents_of, registers_of, reserve, the_part
from dma_rehearsal.device.endpoints.coroutines import Coroutines
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.hooks import Hooks, named_timers
from dma_rehearsal.device.endpoints.interrupts import Capabilities, Interrupts
from dma_rehearsal.device.endpoints.name_checks import check_names
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.endpoints.saved_state import StatePart, migration
from dma_rehearsal.device.endpoints.stop_state import StopState
from dma_rehearsal.device.endpoints.threads import Threads
from dma_rehearsal.device.endpoints.work import WorkFromElsewhere
from dma_rehearsal.device.pci import aer, pcie
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.base_addresses import ROM
from dma_rehearsal.device.pci.config import (
    CONFIG_SIZE,
    Capability,
    Command,
    ConfigSpace,
    Identity,
    Status,
)
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.pci.pcie import DeviceControl, DeviceStatus, Offset, PciExpress
from dma_rehearsal.device.pci.power import PowerManagement
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.model import Client, Mappable
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.work import Work

CONFIG_REGION = 7
_UNCAUGHT_SHOWN = 8  # refusals that a model did not catch, logged with their traceback
_UNCAUGHT_MAX = 1000  # logged at all: a guest decides how many there are

_log = logging.getLogger(__name__)


class Endpoint(WorkFromElsewhere, Hooks):
    """One PCI Express function; the ``DeviceModel`` that a server serves.

    A subclass declares ``identity``, ``bars``, ``vectors`` (MSI-X, 0 to 2048) and ``messages``
    (MSI, 0 or a power of two to 32; ``msi_masks``: each can be masked), and ``capabilities``
    beside these; values that are only known when it is made go to ``__init__``. Reach memory
    only through ``self.bus``; signal with ``self.interrupts``; act later by ``self.timers``,
    which a reset clears. ``state``, where it is not empty, can be migrated.
    ``immediate_readiness`` says that it can be used at once after every reset (PCI Express Base
    5.0, section 6.6.1). ``command_at_reset`` is for clients that are not guests, such as a
    sample program: nobody else turns on bus mastering there. ``siblings`` has the other
    functions of its device by their numbers (`MultiFunction`).
    ValueError for declarations that no function can have.
    """

    name = "endpoint"
    identity: Identity
    bars: ClassVar[Bars] = {}
    vectors = 0
    msix_bars: ClassVar[MsixBars | None] = None
    rom: Rom | None = None
    messages = 0
    msi_masks = False
    capabilities: ClassVar[Sequence[Capability]] = ()
    state: ClassVar[Sequence[StatePart]] = ()
    command_at_reset = Command(0)
    immediate_readiness = False
    # Set by a `MultiFunction`, which ``card`` then is:
    function_number = 0
    siblings: Mapping[int, Endpoint] = MappingProxyType({})
    requester_id: int | None = None
    card: Any = None

    def __init_subclass__(cls, *, complete: bool = True, **options: object) -> None:
        """Raise ValueError for a declaration that no function can have.

        ``complete=False``: the class body does not have it all, and ``__init__`` passes the rest.
        """
        super().__init_subclass__(**options)
        check_names(cls)
        if complete:
            declaration.check_class(cls)

    def __init__(
        self,
        trace: Trace | None = None,
        *,
        bars: Bars | None = None,
        vectors: int | None = None,
        msix_bars: MsixBars | None = None,
        fabric: Fabric | None = None,
    ) -> None:
        self.trace = trace or Trace()
        declared = declaration.check(self, bars=bars, vectors=vectors, msix_bars=msix_bars)
        self.vectors = declared.vectors
        registers = base_addresses(declared.bars, declared.rom)
        self.config = ConfigSpace(self.identity, registers, self.command_at_reset)
        self.config.set_status(Status.IMMEDIATE_READINESS, self.immediate_readiness)
        self._pcie = self.add_capability(PciExpress(self._function_level_reset))
        self.add_capability(PowerManagement(self._power_changed))
        self.config.on_command = self._command_changed
        self.bus = Bus(self, fabric or Fabric(), uncaught=self._log_uncaught)
        self.interrupts = self._add_interrupts(declared.msix_bars)
        self._msix_region = self.interrupts.msix_region
        declaration.check_capabilities(type(self).__name__, self.capabilities)
        for capability in self.capabilities:
            self.add_capability(capability)
        self.timers = Timers(run=self._timer, actions=named_timers(self))
        self.posted = Work(self.timers, run=self._timer)
        self._coroutines = Coroutines(self.bus, self.config, self.posted, self._log_uncaught)
        self._threads = Threads(self.posted)
        self._hold = ActionHold(
            self.bus,
            self.timers,
            run=self._run_side_effect,
            settle=self._settle,
            event=self._event,
        )
        self.client_accesses = 0  # to configuration space and BARs, but for BARs that are mapped
        self._uncaught = 0
        self._acting = False
        self.contents: dict[int, BarContent] = contents_of(declared.bars, self, declared.rom)
        self._check_registers(declared.bars)
        self.bus.fabric.join(self)
        self._stop_state = StopState(
            self, lambda: self._hold.finish("stopped"), self._stop, self.interrupts.update
        )
        self.migration: Migration | None = None
        if self.state:
            self.migration = migration(
                self.state,
                self.contents,
                timers=lambda: self.timers,
                names=[*named_timers(self)],
                drain=self._stop_state.drain,
                loaded=self.on_load,
                stopped=self._stop_state.stop,
                running=self._stop_state.run,
            )

    def _add_interrupts(self, bars: MsixBars | None) -> Interrupts:
        """Add the capabilities of the messages that it declares; return its interrupts."""
        start_msi = None
        if self.messages:
            start_msi = self.add_capability(Msi(self.messages, masks=self.msi_masks))
        start_msix = None
        if bars is not None and self.vectors:
            places = bars.table, bars.pba, bars.pba_offset, bars.table_offset
            start_msix = self.add_capability(MsiX(self.vectors, *places))
        return Interrupts(
            self.config,
            Capabilities(start_msix, self.vectors, start_msi, self.messages, bars),
            client=self._client,
            event=self._event,
            signal_intx=self._signal_intx,
            intx_status=self._intx_status,
        )

    def _client(self) -> Client | None:
        return self.bus.client

    def _signal_intx(self) -> bool:
        return self.send_intx()

    def _intx_status(self) -> bool:
        return self.intx_status()

    def _check_registers(self, bars: Bars) -> None:
        """Raise ValueError for side effects, and for registers where MSI-X's table is."""
        registers = registers_of(self.contents)
        declaration.check_side_effects(self, bars, registers)
        if self._msix_region is not None:
            for bar, offset, length, what in self._msix_region.ranges():
                reserve(registers, bar, offset, length, what)

    # For authors: what a model calls.

    def msix(self, vector: int) -> bool:
        """Send an MSI-X message; return whether it went. See ``Messages.send``."""
        return self.interrupts.msix.send(vector)

    def msi(self, message: int) -> bool:
        """Send an MSI message; return whether it went. See ``Messages.send``."""
        return self.interrupts.msi.send(message)

    def intx(self, level: bool) -> None:
        """Assert or deassert the function's INTx line. See ``Intx``."""
        self.interrupts.intx.level = level

    def registers(self, bar: int, at: int | None = None) -> RegisterFile:
        """Return the registers of a BAR. LookupError when it has none.

        ``at``: the start of the part, where a `MixedBar` has several of that kind.
        """
        return the_part(self.contents, bar, at, RegisterFile, "registers")

    def memory(self, bar: int, at: int | None = None) -> MemoryData:
        """Return the bytes of a BAR, or of its part; see ``registers``."""
        return the_part(self.contents, bar, at, Memory, "memory").data

    def shared(self, bar: int, at: int | None = None) -> SharedMemory:
        """Return the memory of a BAR that the client may map; see ``registers``."""
        return the_part(self.contents, bar, at, SharedMemory, "shared memory")

    def add_capability(self, capability: Capability) -> int:
        """Add a capability to its list; return its offset in configuration space.

        ValueError for one that does not fit the function, and for SR-IOV.
        """
        declaration.check_capability(type(self).__name__, capability, self.config)
        return self.config.add(capability)

    def signal_error(self) -> bool:
        """Tell the client of an unrecoverable error (VFIO's ERR); return whether it takes note.

        QEMU then stops the guest, whose run has no verdict. The guest sees nothing of it: log the
        error by ``detect_error`` for that.
        """
        self._event("error-signal")
        return self.interrupts.signal(Irq.ERR)

    def request_removal(self) -> bool:
        """Ask the client to give the device up (VFIO's REQ); return whether it takes note."""
        self._event("removal-request")
        return self.interrupts.signal(Irq.REQ)

    def set_device_status(self, bit: DeviceStatus, on: bool = True) -> None:
        """Set or clear a bit of Device Status, such as Transactions Pending (7.5.3.5)."""
        pcie.set_status(self.config, self._pcie, bit, on)

    def detect_error(
        self, error: Correctable | Uncorrectable, *, fatal: bool = False
    ) -> DeviceStatus:
        """Log an error that the function detected; return its severity. See ``aer.detect``."""
        return aer.detect(self.config, self._pcie, error, fatal=fatal)

    # For authors: what a model may override, besides its hooks.

    @property
    def coherent(self) -> bool:
        """Whether caches follow its DMA (devicetree's ``dma-coherent``, ACPI's ``_CCA``): yes.

        A device that says False meets, while the platform's cache model is on, the bytes in DRAM,
        whatever its requests say of No Snoop.
        """
        return True

    @property
    def no_snoop_enabled(self) -> bool:
        """Return Device Control's Enable No Snoop (PCI Express Base 5.0, 7.5.3.4)."""
        control = self.config.word(self._pcie + Offset.DEVICE_CONTROL)
        return bool(control & DeviceControl.NO_SNOOP)

    def send_intx(self) -> bool:
        """Tell the client that the line rose; return whether it takes note."""
        return self.interrupts.signal_intx()

    def intx_status(self) -> bool:
        """Return Interrupt Status. See ``Interrupts.intx_status``."""
        return self.interrupts.intx_status()

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

    @property
    def fabric(self) -> Fabric:
        """Return the functions that reach each other by their BARs. See ``Bus.fabric``."""
        return self.bus.fabric

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
