# SPDX-License-Identifier: Apache-2.0
"""Endpoint: what every function has. An author adds identity, registers and behaviour.

    class Adder(Endpoint):
        identity = Identity(vendor_id=0x1234, device_id=0x0ADD, class_code=0xFF0000)
        bars = {0: RegisterBar((Register(Reg.SUM, Access.RW),))}
        vectors = 1

        def write_sum(self, value: int) -> None:
            self.msix(0)

Configuration space, accesses of any width, MSI-X, MSI, INTx, resets and the trace come with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar

from dma_rehearsal.device.endpoints import declaration
from dma_rehearsal.device.endpoints.bar_memory import Fabric, Memory, ReadOnlyMemory
from dma_rehearsal.device.endpoints.bars import (
    Bars,
    MemoryBar,
    MsixBars,
    RegisterBar,
    SharedBar,
    bar_size,
)
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused, Transaction
from dma_rehearsal.device.endpoints.interrupts import Capabilities, MessageInterrupts, MsixRegion
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.endpoints.saved_state import Content, StatePart, migration
from dma_rehearsal.device.endpoints.shared import SharedMemory
from dma_rehearsal.device.endpoints.stop_state import Standstill
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci import aer, pcie
from dma_rehearsal.device.pci.aer import AdvancedErrorReporting, Correctable, Uncorrectable
from dma_rehearsal.device.pci.config import (
    CONFIG_SIZE,
    Capability,
    Command,
    ConfigSpace,
    Identity,
    Status,
)
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX, pba_size, table_size
from dma_rehearsal.device.pci.pcie import DeviceControl, DeviceStatus, Offset, PciExpress
from dma_rehearsal.device.pci.power import PowerManagement
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.model import Client, Mappable
from dma_rehearsal.device.vfio_user.timers import Timers

CONFIG_REGION = 7
_BARS = 6
_UNCAUGHT_SHOWN = 8  # refusals that a model did not catch, with their traceback
_UNCAUGHT_MAX = 1000  # that are told of at all: a guest decides how many there are

_log = logging.getLogger(__name__)


class Endpoint:
    """One PCI Express function; the ``DeviceModel`` that a server serves.

    A subclass declares ``identity``, ``bars``, ``vectors`` (MSI-X, 0 to 2048) and ``messages``
    (MSI, 0 or a power of two to 32); what is only known when it is made goes to ``__init__``.
    Reach memory through ``self.bus`` only; signal with ``msix``, ``msi`` and ``intx``; act later by
    ``self.timers``, which a reset clears. ``state``, where it is not empty, can be migrated.
    ``command_at_reset`` is for clients that are no guests, such as a sample program: nobody else
    turns on bus mastering there. ValueError for what no function can have.
    """

    name = "endpoint"
    identity: Identity
    bars: ClassVar[Bars] = {}
    vectors = 0
    messages = 0
    state: ClassVar[Sequence[StatePart]] = ()
    command_at_reset = Command(0)

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
        bars = dict(self.bars if bars is None else bars)
        if vectors is not None:
            self.vectors = vectors
        if self.vectors and msix_bars is None:
            msix_bars = self._add_msix_bar(bars)
        declaration.check(self, bars, self.vectors, msix_bars, self.messages)
        self._bar_sizes = {index: each.size for index, each in bars.items()}
        self.config = ConfigSpace(self.identity, self._bar_sizes, self.command_at_reset)
        self._pcie = self.add_capability(PciExpress(lambda: self._function_level_reset()))
        self.add_capability(PowerManagement(lambda: self._power_changed()))
        self._msi = self.add_capability(Msi(self.messages)) if self.messages else None
        self._msix = None
        if msix_bars is not None and self.vectors:
            self._msix = self.add_capability(
                MsiX(
                    self.vectors,
                    msix_bars.table,
                    msix_bars.pba,
                    msix_bars.pba_offset,
                    msix_bars.table_offset,
                )
            )
        self.config.on_command = lambda: self._command_changed()
        self.fabric = fabric or Fabric()
        self.fabric.join(self)
        self.bus = Bus(self, uncaught=lambda refusal: self._note_uncaught(refusal))
        self._messages = MessageInterrupts(
            self.config,
            Capabilities(self._msix, self.vectors, self._msi, self.messages),
            client=lambda: self.bus.client,
            tell=lambda *what: self._tell_message(*what),
        )
        self._msix_region = None
        if msix_bars is not None and self.vectors:
            self._msix_region = MsixRegion(
                msix_bars, self.vectors, lambda: self._messages.pending_bits()
            )
        self.timers = Timers(run=lambda action: self._timer(action))
        self._intx_level = False
        self._intx_under_way = False
        self._uncaught = 0
        self._acting = False
        self.contents: dict[int, Content] = {}
        for index, bar in bars.items():
            if isinstance(bar, RegisterBar):
                self.contents[index] = RegisterFile(bar.registers, self, bar.size)
            elif isinstance(bar, SharedBar):
                self.contents[index] = SharedMemory(bar.size, bar.areas)
            else:
                kind = ReadOnlyMemory if bar.read_only else Memory
                self.contents[index] = kind(bar.size)
        files = {
            index: each for index, each in self.contents.items() if isinstance(each, RegisterFile)
        }
        declaration.check_side_effects(self, files)
        if self._msix_region is not None:
            for place, offset, length, what in self._msix_region.ranges():
                if place in files:
                    files[place].reserve(offset, length, what)
        self._standstill = Standstill(
            self, lambda: self._stand_still(), lambda: self._offer_interrupts()
        )
        self.migration: Migration | None = None
        if self.state:
            self.migration = migration(
                self.state,
                self.contents,
                loaded=lambda: self.on_load(),
                stopped=self._standstill.begin,
                running=self._standstill.end,
            )

    def _add_msix_bar(self, bars: dict[int, RegisterBar | MemoryBar | SharedBar]) -> MsixBars:
        free = [index for index in range(_BARS) if index not in bars]
        if not free:
            raise ValueError(
                f"{type(self).__name__}: no BAR is free for the table of MSI-X; say by msix_bars "
                "which has room for it, or declare one BAR less"
            )
        pba_offset = table_size(self.vectors)
        bars[free[-1]] = MemoryBar(bar_size(pba_offset + pba_size(self.vectors)))
        return MsixBars(free[-1], free[-1], pba_offset)

    # For authors.

    def add_capability(self, capability: Capability) -> int:
        """Add a capability to its list; return its offset in configuration space."""
        return self.config.add(capability)

    def registers(self, bar: int) -> RegisterFile:
        """Return the registers of a BAR; LookupError when it has none."""
        content = self.contents[bar]
        if not isinstance(content, RegisterFile):
            raise LookupError(f"BAR{bar} has no registers")
        return content

    def memory(self, bar: int) -> bytearray:
        """Return the bytes of a BAR; LookupError when it is not memory."""
        content = self.contents[bar]
        if not isinstance(content, Memory):
            raise LookupError(f"BAR{bar} is not memory")
        return content.data

    def shared(self, bar: int) -> SharedMemory:
        """Return the memory of a BAR that the client may map; LookupError for another."""
        content = self.contents[bar]
        if not isinstance(content, SharedMemory):
            raise LookupError(f"BAR{bar} is not shared memory")
        return content

    @property
    def coherent(self) -> bool:
        """Whether caches follow its DMA (devicetree's ``dma-coherent``, ACPI's ``_CCA``): yes.

        A device that says False meets, while the platform's cache model is on, what stands in
        DRAM, whatever its requests say of No Snoop.
        """
        return True

    @property
    def no_snoop_enabled(self) -> bool:
        """Return Device Control's Enable No Snoop (PCI Express Base 5.0, 7.5.3.4)."""
        control = self.config.word(self._pcie + Offset.DEVICE_CONTROL)
        return bool(control & DeviceControl.NO_SNOOP)

    def set_device_status(self, bit: DeviceStatus, on: bool = True) -> None:
        """Set or clear a bit of Device Status, such as Transactions Pending (7.5.3.5)."""
        pcie.set_status(self.config, self._pcie, bit, on)

    def detect_error(
        self, error: Correctable | Uncorrectable, *, fatal: bool = False
    ) -> DeviceStatus:
        """Log an error that the function detected; return its severity (Base 5.0, section 6.2).

        Device Status has the severity, and the error's own bit for an Unsupported Request. AER's
        severities go before ``fatal``, where the function has that capability. No error message is
        sent: vfio-user carries none.
        """
        start = self.config.start_of(AdvancedErrorReporting)
        severity = DeviceStatus.CORRECTABLE_ERROR
        if isinstance(error, Uncorrectable):
            if start is not None:
                fatal = aer.fatal(self.config, start, error)
            severity = DeviceStatus.FATAL_ERROR if fatal else DeviceStatus.NON_FATAL_ERROR
        self.set_device_status(severity)
        if error is Uncorrectable.UNSUPPORTED_REQUEST:
            self.set_device_status(DeviceStatus.UNSUPPORTED_REQUEST)
        if start is not None:
            aer.report(self.config, start, error)
        return severity

    def msix(self, vector: int) -> bool:
        """Send an MSI-X message; return whether it went.

        A message is a memory write, so it needs bus mastering; and MSI-X Enable. Masked, by
        software or by the client's lack of an eventfd, it is pending: its bit is set in the Pending
        Bit Array, and it goes when it is unmasked. A vector that the function does not have is not
        sent.
        """
        return self._messages.send(Irq.MSIX, vector)

    def msi(self, message: int) -> bool:
        """Send an MSI message, as ``msix`` does, while software has MSI enabled.

        Only those that software allocated (Multiple Message Enable) are sent.
        """
        return self._messages.send(Irq.MSI, message)

    def _tell_message(self, what: str, kind: str, number: int) -> None:
        if what == "sent":
            self.trace.event(self.name, kind, vector=number)
        else:
            self.trace.event(self.name, what, interrupt=kind, vector=number)

    def intx(self, level: bool) -> None:
        """Assert or deassert the function's INTx line.

        Interrupt Disable, D3hot, and MSI-X or MSI when it is enabled, keep it from the client until
        they end (PCI Local Bus 3.0, sections 6.2.2 and 6.8). Interrupt Status shows it all the
        same.
        """
        if level != self._intx_level:
            self.trace.event(self.name, "intx", level=level)
        self._intx_level = level
        self._update_intx()

    def send_intx(self) -> bool:
        """Tell the client that the line rose; return whether it will take note."""
        return self.bus.client is not None and self.bus.client.trigger(Irq.INTX, 0)

    def intx_status(self) -> bool:
        """Return Interrupt Status: our line is up, or the client's end of it still is.

        QEMU holds the guest's line up from the signal on until the guest accesses a BAR, then sends
        the end of interrupt. A handler that asks before would otherwise find a line that is up and
        nobody's, over and over.
        """
        return self._intx_level or self._intx_under_way

    def on_reset(self) -> None:
        """Take behaviour that is no register back to its reset state; registers are reset after."""

    def on_load(self) -> None:
        """Act on a state that was loaded; ValueError when it is none that the device can have.

        It came from the client: a number in it may be any number.
        """

    def on_stopped(self) -> None:
        """Act on the end of running, before the state is saved.

        Timers and DMAs under way are forgotten; what is in ``state`` must say how to go on. Until
        ``on_running`` no access reaches a register, a DMA is refused as if bus mastering were off,
        and timers wait: one that is set has all of its time left then.
        """

    def on_running(self) -> None:
        """Act on the beginning of running, with the state that was loaded: set timers again.

        A reset in between has no state to bring, and ends the standstill with it.
        """

    def on_command(self) -> None:
        """Act on a write to the command register, such as bus mastering going off.

        D3hot, whose beginning and end call it too, turns that off as ``config.bus_master`` says.
        """

    def on_unmap(self, address: int, length: int) -> None:
        """Act on the client's taking back a range of bus addresses, in bytes."""

    def on_detach(self) -> None:
        """Act on the client's going: memory cannot be reached any more."""

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note of an access by software, when it is done. ``region``: 0-5 BARs, 7 config."""

    def on_refused(self, transaction: Transaction) -> None:
        """Take note of a request to memory that was refused; `bus.transactions` has the others.

        The trace has it already. A limit of the device's own goes there by ``bus.refuse``.
        """

    def traces_request(self, reason: DmaReason) -> bool:
        """Return whether a request that ended so is in the trace: each is. A fault overrides it."""
        del reason
        return True

    def place(self, region: int, offset: int) -> str:
        """Return a name for a place in a region (0-5 BARs, 7 config), with its register's."""
        if region == CONFIG_REGION:
            return f"configuration space {offset:#x}"
        content = self.contents.get(region)
        name = content.name(offset) if isinstance(content, RegisterFile) else ""
        return f"BAR{region} {offset:#x} ({name})" if name else f"BAR{region} {offset:#x}"

    # The DeviceModel.

    def region_size(self, index: int) -> int:
        """See ``DeviceModel.region_size``."""
        return CONFIG_SIZE if index == CONFIG_REGION else self._bar_sizes.get(index, 0)

    def region_mappable(self, index: int) -> Mappable | None:
        """See ``DeviceModel.region_mappable``."""
        content = self.contents.get(index)
        return content.mappable if isinstance(content, SharedMemory) else None

    def irq_count(self, index: int) -> int:
        """See ``DeviceModel.irq_count``."""
        if index == Irq.INTX:
            return int(self.config.read(0x3D, 1) != b"\0")
        counts = {Irq.MSI: self.messages, Irq.MSIX: self.vectors, Irq.ERR: 1, Irq.REQ: 1}
        return counts.get(Irq(index), 0)

    def attach(self, client: Client) -> None:
        """See ``DeviceModel.attach``."""
        self.bus.client = client
        self.trace.event(self.name, "attach")
        self.end_of_interrupt()

    def detach(self) -> None:
        """See ``DeviceModel.detach``. What is under way ends first."""
        try:
            self.bus.leave()
            self.on_detach()
        finally:
            self.bus.client = None
            self.trace.event(self.name, "detach")

    def unmapped(self, address: int, length: int) -> None:
        """See ``DeviceModel.unmapped``."""
        self.on_unmap(address, length)

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """See ``DeviceModel.region_read``. A BAR that does not answer reads all ones.

        That is so in D3hot, and while Memory Space is clear (Base 5.0, 7.5.1.1.3). QEMU hands on no
        such access; another client may. While a migration holds the function, see `Standstill`.
        """
        if index == CONFIG_REGION:
            data = self.config.read(offset, length)
        elif not self.config.claims_memory:
            return b"\xff" * length
        elif self.config.stopped:
            return self._with_msix(index, offset, self._standstill.read(index, offset, length))
        else:
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
        """See ``DeviceModel.region_write``. Held, or not answering, a BAR takes nothing."""
        if index == CONFIG_REGION:
            self.config.write(offset, data)
            self._update_intx()
            self._messages.update()
        elif not self.config.claims_memory:
            return
        else:
            if self._msix_region is not None:
                self._msix_region.write(index, offset, data)
            if self.config.stopped:
                return
            if (content := self.contents.get(index)) is not None:
                self._tolerantly(lambda: content.write(offset, data))
        if not self.bus.queue.idle:
            self._settle()
        self.on_access(index, offset, data, write=True)

    @property
    def dma_ready(self) -> bool:
        """See ``DeviceModel.dma_ready``."""
        queue = self.bus.queue
        return not queue.idle and queue.ready

    def go_on(self) -> None:
        """See ``DeviceModel.go_on``."""
        self.bus.queue.go_on()

    def _settle(self) -> None:
        """Do the DMAs that a side effect has started, now that it is done, for one turn."""
        if not self._acting:
            self.bus.queue.go_on()

    def _timer(self, action: Callable[[], None]) -> None:
        self._tolerantly(action)
        self._settle()

    def _tolerantly(self, action: Callable[[], None]) -> None:
        """Run a side effect that may end at a refused request: a device goes on, whoever asked.

        The trace has the refusal, by which the test is judged; the log says where the model ended.
        """
        outer, self._acting = self._acting, True
        try:
            action()
        except DmaRefused as refusal:
            self._note_uncaught(refusal)
        finally:
            self._acting = outer

    def _note_uncaught(self, refusal: DmaRefused) -> None:
        self._uncaught += 1
        if self._uncaught <= _UNCAUGHT_MAX:
            _log.warning(
                "%s: a refused DMA ended what the model was doing: %s; catch DmaRefused to go on",
                self.name,
                refusal,
                exc_info=refusal if self._uncaught <= _UNCAUGHT_SHOWN else None,
            )

    def end_of_interrupt(self) -> None:
        """See ``DeviceModel.end_of_interrupt``."""
        self._intx_under_way = False
        self._update_intx()

    def message_unmasked(self, index: int, subindex: int) -> None:
        """See ``DeviceModel.message_unmasked``."""
        self._messages.unmasked(Irq(index), subindex)

    def device_reset(self) -> None:
        """See ``DeviceModel.device_reset``. The client takes its own end of the line down."""
        self._intx_under_way = False
        self._reset("device reset")

    def _function_level_reset(self) -> None:
        self._reset("function level reset", flr=True)

    def _reset(self, kind: str, *, flr: bool = False) -> None:
        self.trace.event(self.name, "reset", kind=kind)
        self._stand_still()
        self.on_reset()
        self.intx(False)
        self.config.reset(flr=flr)
        self._messages.reset()
        if self._msix_region is not None:
            self._msix_region.reset()
        for content in self.contents.values():
            content.reset()
        self._update_intx()

    def _offer_interrupts(self) -> None:
        self._update_intx()
        self._messages.update()

    def _stand_still(self) -> None:
        self.timers.clear()
        self.bus.cancel()

    def _command_changed(self) -> None:
        self.trace.event(self.name, "command", value=int(self.config.command))
        self.on_command()

    def _power_changed(self) -> None:
        self.trace.event(self.name, "power", state="D3hot" if self.config.asleep else "D0")
        self.on_command()

    def _update_intx(self) -> None:
        """Signal a line that is up and let through, once until the end of that interrupt.

        A second signal in between would have no end of its own.
        """
        if self._intx_level and not self._intx_under_way and not self._held_back():
            self._intx_under_way = self.send_intx()
        self.config.set_status(Status.INTERRUPT, self.intx_status())

    def _held_back(self) -> bool:
        disabled = bool(self.config.command & Command.INTX_DISABLE)
        return disabled or self._messages.enabled or self.config.silent
