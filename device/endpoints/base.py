"""Endpoint: what every function has. An author adds identity, registers and behaviour."""

from __future__ import annotations

from collections.abc import Iterable

from device.pci.config import CONFIG_SIZE, Capability, Command, ConfigSpace, Identity, Status
from device.pci.msix import ENABLE, MESSAGE_CONTROL, MsiX
from device.pci.pcie import DeviceControl, Offset, PciExpress
from device.pci.power import PowerManagement
from device.trace import Trace
from device.vfio_user.messages import Irq
from device.vfio_user.migration import Migration
from device.vfio_user.model import Client, Mappable
from device.vfio_user.timers import Timers

from .bus import Bus
from .registers import Register, RegisterFile
from .shared import SharedMemory

_CONFIG_REGION = 7


class Memory:
    """A BAR that is plain memory, such as a data buffer or a result window."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    def reset(self) -> None:
        """Fill with zeros."""
        self.data[:] = bytes(len(self.data))


class ReadOnlyMemory(Memory):
    """A BAR that software can read only."""

    def write(self, offset: int, data: bytes) -> None:
        """Ignore what software writes."""


class Endpoint:
    """One PCI Express function; the ``DeviceModel`` that a server serves.

    ``bars`` maps BAR numbers to their sizes in bytes (powers of two). Reach memory through
    ``self.bus`` only; signal with ``self.msix(vector)`` and ``self.intx(level)``.
    """

    name = "endpoint"

    def __init__(
        self,
        identity: Identity,
        bars: dict[int, int],
        *,
        trace: Trace,
        vectors: int = 0,
        table_bar: int = 0,
        pba_bar: int = 0,
    ) -> None:
        self.trace = trace
        self.vectors = vectors
        self._bar_sizes = dict(bars)
        self._contents: dict[int, RegisterFile | Memory | SharedMemory] = {}
        self.config = ConfigSpace(identity, bars)
        self._pcie = self.add_capability(PciExpress(self._function_level_reset))
        self.add_capability(PowerManagement())
        self._msix = self.add_capability(MsiX(vectors, table_bar, pba_bar)) if vectors else None
        self.config.on_command = self._command_changed
        self.bus = Bus(self.config)
        self.timers = Timers()
        self.migration: Migration | None = None  # an author who has a state declares it here
        self._intx_level = False
        self._intx_under_way = False

    # For authors.

    def add_capability(self, capability: Capability) -> int:
        """Add a capability to the list; return its offset in configuration space."""
        return self.config.add(capability)

    def add_registers(self, bar: int, registers: Iterable[Register]) -> RegisterFile:
        """Let BAR ``bar`` hold registers whose side effects are methods of this endpoint."""
        file = RegisterFile(registers, self)
        self._contents[bar] = file
        return file

    def add_memory(self, bar: int, *, read_only: bool = False) -> Memory:
        """Let BAR ``bar`` be memory."""
        size = self._bar_sizes[bar]
        memory = ReadOnlyMemory(size) if read_only else Memory(size)
        self._contents[bar] = memory
        return memory

    def add_shared_memory(self, bar: int, areas: Iterable[tuple[int, int]]) -> SharedMemory:
        """Let BAR ``bar`` be memory whose ``areas`` (offset, bytes; pages) the client may map.

        A write there is not seen by this endpoint, and QEMU posts no write to this device any more.
        """
        memory = SharedMemory(self._bar_sizes[bar], areas)
        self._contents[bar] = memory
        return memory

    @property
    def no_snoop_enabled(self) -> bool:
        """Return Device Control's Enable No Snoop (PCI Express Base 5.0, 7.5.3.4)."""
        control = self.config.word(self._pcie + Offset.DEVICE_CONTROL)
        return bool(control & DeviceControl.NO_SNOOP)

    def msix(self, vector: int) -> bool:
        """Send an MSI-X message: a memory write, so it needs bus mastering. Return whether it went.

        A vector that the function does not have is not sent.
        """
        client = self.bus.client
        if client is None or not self.config.bus_master or not 0 <= vector < self.vectors:
            return False
        client.trigger(Irq.MSIX, vector)
        self.trace.event(self.name, "msi-x", vector=vector)
        return True

    def intx(self, level: bool) -> None:
        """Assert or deassert the function's INTx line.

        Interrupt Disable, and MSI-X when it is enabled, keep it from the client until they end
        (PCI Local Bus 3.0, sections 6.2.2 and 6.8.2.3). Interrupt Status shows it all the same.
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
        """Take behaviour that is no register back to its reset state."""

    # The DeviceModel.

    def region_size(self, index: int) -> int:
        """See ``DeviceModel.region_size``."""
        return CONFIG_SIZE if index == _CONFIG_REGION else self._bar_sizes.get(index, 0)

    def region_mappable(self, index: int) -> Mappable | None:
        """See ``DeviceModel.region_mappable``."""
        content = self._contents.get(index)
        return content.mappable if isinstance(content, SharedMemory) else None

    def irq_count(self, index: int) -> int:
        """See ``DeviceModel.irq_count``."""
        if index == Irq.INTX:
            return int(self.config.read(0x3D, 1) != b"\0")
        return {Irq.MSIX: self.vectors, Irq.ERR: 1, Irq.REQ: 1}.get(Irq(index), 0)

    def attach(self, client: Client) -> None:
        """See ``DeviceModel.attach``."""
        self.bus.client = client
        self.trace.event(self.name, "attach")
        self.end_of_interrupt()

    def detach(self) -> None:
        """See ``DeviceModel.detach``."""
        self.bus.client = None
        self.trace.event(self.name, "detach")

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """See ``DeviceModel.region_read``."""
        if index == _CONFIG_REGION:
            return self.config.read(offset, length)
        content = self._contents.get(index)
        return content.read(offset, length) if content is not None else bytes(length)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """See ``DeviceModel.region_write``."""
        if index == _CONFIG_REGION:
            self.config.write(offset, data)
            self._update_intx()
        elif (content := self._contents.get(index)) is not None:
            content.write(offset, data)

    def end_of_interrupt(self) -> None:
        """See ``DeviceModel.end_of_interrupt``."""
        self._intx_under_way = False
        self._update_intx()

    def device_reset(self) -> None:
        """See ``DeviceModel.device_reset``. The client takes its own end of the line down."""
        self._intx_under_way = False
        self._reset("device reset")

    def _function_level_reset(self) -> None:
        self._reset("function level reset")

    def _reset(self, kind: str) -> None:
        self.trace.event(self.name, "reset", kind=kind)
        self.bus.cancel()
        self.intx(False)
        self.config.reset()
        for content in self._contents.values():
            content.reset()
        self.on_reset()
        self._update_intx()

    def _command_changed(self) -> None:
        self.trace.event(self.name, "command", value=int(self.config.command))

    @property
    def _msix_enabled(self) -> bool:
        return self._msix is not None and bool(
            self.config.word(self._msix + MESSAGE_CONTROL) & ENABLE
        )

    def _update_intx(self) -> None:
        """Signal a line that is up and let through, once until the end of that interrupt.

        A second signal in between would have no end of its own.
        """
        held_back = self.config.command & Command.INTX_DISABLE or self._msix_enabled
        if self._intx_level and not held_back and not self._intx_under_way:
            self._intx_under_way = self.send_intx()
        self.config.set_status(Status.INTERRUPT, self.intx_status())
