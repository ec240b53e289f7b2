# SPDX-License-Identifier: Apache-2.0
"""A host for unit tests of a device model: no VM, no server, no thread, and no time that passes.

    with FakeHost(Checksum()) as host:
        host.memory[:9] = b"some data"
        host.write(0, Reg.ADDRESS_LO, host.base)
        host.write(0, Reg.LENGTH, 9)
        host.write(0, Reg.DOORBELL, 1)
        assert host.interrupts == [("MSIX", 0)]

Theory of operation. The device gets the messages that QEMU would send, through the connection that
a server uses (`Connection`), so order, limits and resets are those of a run. Only this is
different: interrupts are noted, the timers' clock stands still until `advance`, and posted work,
watches and the client's answers wait for `run`.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dma_rehearsal.device.endpoints.endpoint import CONFIG_REGION, Endpoint
from dma_rehearsal.device.endpoints.multi_function import MultiFunction
from dma_rehearsal.device.pci import msi, msix, power
from dma_rehearsal.device.pci.config import Capability, PowerState
from dma_rehearsal.device.pci.config import Command as PciCommand
from dma_rehearsal.device.pci.config import Header as ConfigHeader
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.pci.power import PowerManagement
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    PAGE_SIZE,
    Command,
    Flags,
    Header,
    Irq,
)
from dma_rehearsal.device.vfio_user.turn import Turn, name_of

BASE = 0x10_0000
MESSAGE_BASE = 0x4000_0000
ROUNDS = 10_000  # of `run`
_VERSION = struct.pack("<HH", 0, 0) + b"{}\0"
_STARTED = PciCommand.IO_SPACE | PciCommand.MEMORY_SPACE | PciCommand.BUS_MASTER
_PAUSE_S = 0.001  # between two looks at what a thread does
_FORMATS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


class FakeHost:
    """The host of one device; a context manager.

    ``memory``: ``size`` bytes at the bus address ``base``, which the device reaches at once.
    ``message_memory``: as many at ``message_base``, which only messages reach: `run` answers them,
    and until then such a DMA is under way. ``interrupts``: the name of VFIO's index and the number,
    as in ("MSIX", 0), of each that was sent. Sizes are in bytes, a multiple of 4096.

    The device starts as a driver starts it, unless ``start`` is False: see `start`, which gets
    ``interrupts_by``. An exception of the model's is raised by the call that meets it.

    TypeError for what is not one device, ValueError for a size or ``base`` that cannot be.
    """

    def __init__(
        self,
        device: Endpoint,
        *,
        size: int = 1 << 20,
        base: int = BASE,
        start: bool = True,
        interrupts_by: str | None = None,
    ) -> None:
        _check(device, size, base)
        self.device = device
        self.base, self.message_base = base, MESSAGE_BASE
        self.message_memory = bytearray(size)
        self.interrupts: list[tuple[str, int]] = []
        self.now = device.timers.clock()  # seconds; it stands still from here on
        self._failures = _Failures()
        self._replies: deque[bytes] = deque()
        self._asked: deque[tuple[Header, bytes]] = deque()
        self._turn = Turn()
        self._interrupts_by = interrupts_by
        device.timers.clock = lambda: self.now
        device.posted.thread = threading.get_ident()
        device.bus.check_thread = device.posted.check_thread
        self._connection = _Connection(device, lambda: self.now, self.interrupts)
        logging.getLogger("dma_rehearsal").addHandler(self._failures)
        descriptor = os.memfd_create("memory")
        try:
            os.ftruncate(descriptor, size)
            self.memory = mmap.mmap(descriptor, size)
            self._call(Command.VERSION, _VERSION)
            self._map(base, size, [os.dup(descriptor)])
            self._map(MESSAGE_BASE, size, [])
        finally:
            os.close(descriptor)
        if start:
            self.start()

    def _map(self, address: int, size: int, descriptors: list[int]) -> None:
        request = wire.DmaMap.STRUCT.pack(wire.DmaMap.STRUCT.size, 3, 0, address, size)
        self._call(Command.DMA_MAP, request, descriptors)

    def start(self) -> None:
        """Start the device, as a driver does: after a reset, and after ``start=False``.

        Its BARs answer, bus mastering is on, and so is the way of its interrupts that
        ``interrupts_by`` names, "MSIX", "MSI" or "INTX": by default the first of these that the
        device has. ValueError for one that it has not.
        """
        way = self._way()
        self.write(CONFIG_REGION, ConfigHeader.COMMAND, _STARTED, 2)
        if way == Irq.MSIX:
            self._enable(MsiX, msix.MESSAGE_CONTROL, msix.ENABLE)
        elif way == Irq.MSI:
            self._enable(Msi, msi.MESSAGE_CONTROL, msi.enabled(self.device.messages))

    def _way(self) -> Irq | None:
        have = [each for each in (Irq.MSIX, Irq.MSI, Irq.INTX) if self.device.irq_count(each)]
        if self._interrupts_by is None:
            return have[0] if have else None
        for way in have:
            if way.name == self._interrupts_by:
                return way
        raise ValueError(
            f"interrupts_by={self._interrupts_by!r}: {type(self.device).__name__} has "
            f"{', '.join(each.name for each in have) or 'no interrupt'}; declare vectors (MSIX), "
            "messages (MSI), or interrupt_pin=1 in its identity (INTX)"
        )

    def _enable(self, kind: type[Capability], register: int, bits: int) -> None:
        start = self.device.config.start_of(kind)
        if start is not None:
            self.write(CONFIG_REGION, start + register, bits, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    def close(self) -> None:
        """Part from the device, whose threads end, and unmap ``memory``."""
        try:
            self._connection.close()
        finally:
            logging.getLogger("dma_rehearsal").removeHandler(self._failures)
            self.device.posted.thread = None
            self.memory.close()
        self._failures.raise_first()

    # The CPU.

    def write(self, bar: int, offset: int, value: int, size: int = 4) -> None:
        """Write a register of ``size`` bytes (1, 2, 4 or 8); BAR 7 is configuration space."""
        payload = self._access(bar, offset, size)
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value:#x} does not fit into {size} bytes; give a size, at most 8")
        self._call(Command.REGION_WRITE, payload + struct.pack(_FORMATS[size], value))

    def read(self, bar: int, offset: int, size: int = 4) -> int:
        """Read a register of ``size`` bytes (1, 2, 4 or 8); BAR 7 is configuration space."""
        payload = self._access(bar, offset, size)
        reply = self._call(Command.REGION_READ, payload)
        value: int = struct.unpack(_FORMATS[size], reply[len(payload) :])[0]
        return value

    def _access(self, bar: int, offset: int, size: int) -> bytes:
        """Return the message's head; ValueError for what a CPU cannot access."""
        if size not in _FORMATS:
            raise ValueError(f"an access of {size} bytes; make it 1, 2, 4 or 8")
        length = self.device.region_size(bar) if bar in range(CONFIG_REGION + 1) else 0
        if not 0 <= offset <= length - size:
            raise ValueError(
                f"{size} bytes at {offset:#x} of BAR{bar}, which has {length:#x} bytes; look at "
                "the number, and at the bars that the class declares"
            )
        return wire.RegionAccess.STRUCT.pack(offset, bar, size)

    def reset(self) -> None:
        """Reset the device and, unlike a driver, leave it stopped: its BARs read all ones.

        `start` starts it again.
        """
        self._call(Command.DEVICE_RESET)

    def power(self, state: PowerState) -> None:
        """Put the device into D3hot, or back into D0, as software does."""
        start = self.device.config.start_of(PowerManagement)
        if start is not None:
            self.write(CONFIG_REGION, start + power.CONTROL, power.STATES[state], 2)

    # Time, and what comes from elsewhere.

    def run(self) -> None:
        """Do all that is due now: answers, posted work, timers, watches, coroutines.

        RuntimeError when it does not come to an end.
        """
        for _ in range(ROUNDS):
            if not self._round():
                return
        raise RuntimeError(
            f"the device has still work after {ROUNDS} rounds: a posted action posts itself, a "
            "timer of 0 s sets itself, or a watched descriptor stays readable"
        )

    def advance(self, seconds: float) -> None:
        """Move the clock on, and `run`; timers run in their order, each at its time."""
        end = self.now + seconds
        self.run()
        while (due := self.device.timers.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.run()
        self.now = end
        self.run()

    def wait(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """`run` until ``condition()`` is true: for a device whose threads work.

        TimeoutError after ``seconds`` of real time. The device's own clock stands still.
        """
        end = time.monotonic() + seconds
        while True:
            self.run()
            if condition():
                return
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{name_of(condition)} is not true after {seconds} s; look at what the "
                    "device's threads wait for (a timer needs `advance`)"
                )
            time.sleep(_PAUSE_S)

    @property
    def unanswered(self) -> int:
        """Return how many messages of the device `run` will answer first; 0 or 1."""
        return len(self._asked)

    def _round(self) -> bool:
        work, timers, done = self.device.posted, self.device.timers, False
        if work.ready:
            work.run(self._turn)
            done = True
        due = timers.next_deadline()
        if due is not None and due <= self.now:
            timers.run_due()
            done = True
        if work.watches.shown:
            done = work.watches.look(self._turn) or done
        if self._connection.ready or not self._connection.idle:
            self._connection.tick()
        self._take()
        if self._asked:
            self._answer(*self._asked.popleft())
            done = True
        self._failures.raise_first()
        return done

    # Messages.

    def _call(
        self, command: Command, payload: bytes = b"", descriptors: list[int] | None = None
    ) -> bytes:
        """Send a command; return the reply's payload. Raises what the model raised."""
        header = Header(1, command, HEADER_SIZE + len(payload), Flags(0), 0)
        self._connection.handle(Message(header, payload, descriptors or []))
        self._take()
        reply = self._replies.popleft()
        self._failures.raise_first()
        found = Header.unpack(reply)
        if found.flags & Flags.ERROR:
            raise OSError(found.error, f"the device refused {command.name}")
        return reply[HEADER_SIZE:]

    def _take(self) -> None:
        outbox = self._connection.outbox
        while outbox:
            data = outbox.popleft().data
            header = Header.unpack(data)
            if header.flags & Flags.TYPE_MASK == Flags.REPLY:
                self._replies.append(data)
            else:
                self._asked.append((header, data[HEADER_SIZE:]))

    def _answer(self, asked: Header, payload: bytes) -> None:
        """Answer a DMA_READ or DMA_WRITE; refuse one of what is not mapped."""
        access = wire.DmaAccess.unpack(payload)
        data = payload[wire.DmaAccess.STRUCT.size :]
        for base, memory in ((self.base, self.memory), (MESSAGE_BASE, self.message_memory)):
            at = access.address - base
            if at >= 0 and at + access.count <= len(memory):
                break
        else:
            self._reply(asked, b"", Flags.ERROR)
            return
        found = b""
        if asked.command == Command.DMA_READ:
            found = bytes(memory[at : at + access.count])
        else:
            memory[at : at + access.count] = data
        self._reply(asked, access.pack() + found, Flags(0))

    def _reply(self, asked: Header, payload: bytes, error: Flags) -> None:
        size = HEADER_SIZE + len(payload)
        flags = Flags.REPLY | error
        header = Header(asked.message_id, asked.command, size, flags, 14 if error else 0)
        self._connection.handle(Message(header, payload, []))
        self._take()


def _check(device: object, size: int, base: int) -> None:
    """Raise TypeError or ValueError for arguments of a `FakeHost` that cannot be."""
    name = getattr(device, "__name__", type(device).__name__)
    if isinstance(device, type):
        raise TypeError(f"FakeHost({name}) got a class; make the device: FakeHost({name}())")
    if isinstance(device, MultiFunction):
        raise TypeError(
            f"FakeHost({name}()) got a card; give each function a host: FakeHost(card.endpoints[0])"
        )
    if not isinstance(device, Endpoint):
        raise TypeError(f"FakeHost got a {name}; give it an Endpoint")
    if not hasattr(device, "timers"):
        raise TypeError(
            f"{name}.__init__ did not call Endpoint's: begin it with super().__init__(trace)"
        )
    if size <= 0 or size % PAGE_SIZE or base % PAGE_SIZE:
        raise ValueError(f"size={size:#x}, base={base:#x}: make both multiples of {PAGE_SIZE}")
    if base < 0 or base + size > 1 << 64 or MESSAGE_BASE - size < base < MESSAGE_BASE + size:
        raise ValueError(
            f"{size:#x} bytes at {base:#x} pass 2^64, or overlap with as many at "
            f"{MESSAGE_BASE:#x} (message_base); choose another base or size"
        )


class _Connection(Connection):
    """A connection whose client takes every interrupt."""

    def __init__(
        self, device: Endpoint, clock: Callable[[], float], interrupts: list[tuple[str, int]]
    ) -> None:
        super().__init__(device, clock)
        self._sent, self._check_thread = interrupts, device.posted.check_thread

    def trigger(self, index: int, subindex: int) -> bool:
        """Note it. RuntimeError in another thread than the one that serves."""
        self._check_thread("an interrupt")
        self._sent.append((Irq(index).name, subindex))
        return True

    def armed(self, index: int, subindex: int) -> bool:
        """Return True."""
        del index, subindex
        return True


class _Failures(logging.Handler):
    """Keeps what the framework logs as an error: an exception of the model's, mostly."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        failure = record.exc_info[1] if record.exc_info else None
        self._found.append(failure or RuntimeError(record.getMessage()))

    def raise_first(self) -> None:
        """Raise the first, and forget all."""
        found, self._found = self._found, []
        if found:
            raise found[0]
