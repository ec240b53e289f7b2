"""Endpoint: what every function has. An author adds identity, registers and behaviour."""

from __future__ import annotations

from collections.abc import Iterable

from device.pci.config import CONFIG_SIZE, Capability, Command, ConfigSpace, Identity, Status
from device.pci.msix import MsiX
from device.pci.pcie import DeviceControl, Offset, PciExpress
from device.pci.power import PowerManagement
from device.trace import Trace
from device.vfio_user.messages import Irq
from device.vfio_user.model import Client

from .bus import Bus
from .registers import Register, RegisterFile

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
        self._contents: dict[int, RegisterFile | Memory] = {}
        self.config = ConfigSpace(identity, bars)
        self._pcie = self.add_capability(PciExpress(self._function_level_reset))
        self.add_capability(PowerManagement())
        if vectors:
            self.add_capability(MsiX(vectors, table_bar, pba_bar))
        self.config.on_command = self._command_changed
        self.bus = Bus(self.config)
        self._intx_level = False
        self._intx_signalled = False

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
        """Assert or deassert INTA."""
        self._intx_level = level
        self.config.set_status(Status.INTERRUPT, level)
        self._update_intx()

    def on_reset(self) -> None:
        """Take behaviour that is no register back to its reset state."""

    # The DeviceModel.

    def region_size(self, index: int) -> int:
        """See ``DeviceModel.region_size``."""
        return CONFIG_SIZE if index == _CONFIG_REGION else self._bar_sizes.get(index, 0)

    def irq_count(self, index: int) -> int:
        """See ``DeviceModel.irq_count``."""
        if index == Irq.INTX:
            return int(self.config.read(0x3D, 1) != b"\0")
        return {Irq.MSIX: self.vectors, Irq.ERR: 1, Irq.REQ: 1}.get(Irq(index), 0)

    def attach(self, client: Client) -> None:
        """See ``DeviceModel.attach``."""
        self.bus.client = client
        self.trace.event(self.name, "attach")

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
        elif (content := self._contents.get(index)) is not None:
            content.write(offset, data)

    def end_of_interrupt(self) -> None:
        """See ``DeviceModel.end_of_interrupt``."""
        self._intx_signalled = False
        self._update_intx()

    def device_reset(self) -> None:
        """See ``DeviceModel.device_reset``."""
        self._reset("device reset")

    def _function_level_reset(self) -> None:
        self._reset("function level reset")

    def _reset(self, kind: str) -> None:
        self.trace.event(self.name, "reset", kind=kind)
        self.intx(False)
        self.config.reset()
        for content in self._contents.values():
            content.reset()
        self.on_reset()

    def _command_changed(self) -> None:
        self.trace.event(self.name, "command", value=int(self.config.command))
        self._update_intx()

    def _update_intx(self) -> None:
        """Signal the client at each rise of the line that Interrupt Disable does not hold back.

        QEMU keeps the line up until the guest accesses a BAR, then sends the end of interrupt.
        """
        active = self._intx_level and not self.config.command & Command.INTX_DISABLE
        if active and not self._intx_signalled and self.bus.client is not None:
            self.bus.client.trigger(Irq.INTX, 0)
        self._intx_signalled = active
