# SPDX-License-Identifier: Apache-2.0
"""Endpoint: the base class of every device model. It has all that a PCI Express function needs.

    class Adder(Endpoint):
        identity = Identity(vendor_id=0x1234, device_id=0x0ADD, class_code=0xFF0000)
        bars = {0: RegisterBar((Register(Reg.SUM, Access.RW),))}
        vectors = 1

        def write_sum(self, value: int) -> None:
            self.msix(0)

The author declares identity, BARs and registers, overrides hooks (`Hooks`) and side effects of
registers, and uses ``bus``, ``interrupts`` and ``timers``. `ServedFunction` serves them to the
vfio-user server (`DeviceModel`): configuration space, accesses of any width, resets, the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from dma_rehearsal.device.endpoints.hooks import named_timers
from dma_rehearsal.device.endpoints.interrupts import Capabilities, Interrupts
from dma_rehearsal.device.endpoints.name_checks import check_names
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.endpoints.saved_state import StatePart, migration
from dma_rehearsal.device.endpoints.served_function import CONFIG_REGION, ServedFunction
from dma_rehearsal.device.endpoints.stop_state import StopState
from dma_rehearsal.device.endpoints.threads import Threads
from dma_rehearsal.device.endpoints.work import WorkFromElsewhere
from dma_rehearsal.device.pci import aer, pcie
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.config import Capability, Command, ConfigSpace, Identity, Status
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.pci.pcie import DeviceControl, DeviceStatus, Offset, PciExpress
from dma_rehearsal.device.pci.power import PowerManagement
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.model import Client
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.work import Work

__all__ = ("CONFIG_REGION", "Endpoint")


class Endpoint(ServedFunction, WorkFromElsewhere):
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
        self._declared = declared
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
        declaration.check_capability(type(self).__name__, capability, self._declared)
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

    @property
    def fabric(self) -> Fabric:
        """Return the functions that reach each other by their BARs. See ``Bus.fabric``."""
        return self.bus.fabric
