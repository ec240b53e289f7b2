# SPDX-License-Identifier: Apache-2.0
"""The fuzz target of a function that has everything which an `Endpoint` can have.

BARs of each kind, each capability, coroutines, timers, posted work, lines and a state to migrate;
accesses of any width anywhere, resets and migrations in between. Beside what holds for each target,
nothing in the model fails, and a reset leaves the function as it was made.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    AccessControlServices,
    AddressTranslationServices,
    AtomicOps,
    Bars,
    CallbackBar,
    Capability,
    DeviceSerialNumber,
    DmaRefused,
    Dvsec,
    Endpoint,
    Identity,
    IoBar,
    LatencyToleranceReporting,
    MemoryBar,
    MixedBar,
    MsixBars,
    PageRequest,
    ProcessAddressSpaceId,
    Register,
    RegisterArray,
    Registers,
    ResizableBar,
    Rom,
    SharedBar,
    StatePart,
    TooManyRunning,
    TooMuchPosted,
    VendorSpecific,
)
from dma_rehearsal.device.pci.pcie import Offset, PciExpress
from dma_rehearsal.device.pci.power import PowerManagement
from dma_rehearsal.device.vfio_user.messages import Command, DmaAccess, Flags, Irq
from dma_rehearsal.device.vfio_user.turn import Turn
from tests.fuzz.targets import BASE, PAGE, TARGETS, Choices, Peer, framed, peer

MEBIBYTE = 1 << 20
BARE, BARE_SIZE = 0x100_0000, 1 << 20
CONFIG, ROM = 7, 6
IDENTITY = Identity(0x1234, 0xF022, 0xFF0000, interrupt_pin=1)
IRQS = {Irq.INTX: 1, Irq.MSI: 8, Irq.MSIX: 70, Irq.ERR: 1, Irq.REQ: 1}
ADDRESSES = (BASE, BASE + PAGE - 4, BARE, BARE + 64, 0, 0x8000_0000, (1 << 64) - 4)
LENGTHS = (1, 1, 2, 3, 4, 4, 4, 5, 7, 8, 8, 12, 16, 64)
TABLE, PBA = 0x2000, 0x2800
MIG_DEVICE_STATE = 2 << 16 | 2  # to set it


class Reg(IntEnum):
    """BAR0."""

    BELL = 0x00  # an array of doorbells, and beside each its status
    STATUS = 0x04
    ADDRESS = 0x40
    LENGTH = 0x48
    ONCE = 0x4C
    SET = 0x50
    CLEARED = 0x54
    BYTE = 0x58
    COMMAND = 0x5A


class Odd(Endpoint):
    """One of everything."""

    name = "odd"
    identity = IDENTITY
    vectors = IRQS[Irq.MSIX]
    messages = IRQS[Irq.MSI]
    msi_masks = True
    rom = Rom.holding(b"rom", IDENTITY)
    msix_bars = MsixBars(0, 0, PBA, TABLE)
    state = (StatePart(0, 0x1000, 64), StatePart(0, Reg.ADDRESS, 8))
    bars: ClassVar[Bars] = {
        0: MixedBar(
            0x4000,
            {
                0: Registers(
                    [
                        RegisterArray(Reg.BELL, 8, 8, Access.WO),
                        RegisterArray(Reg.STATUS, 7, 8, Access.W1C, mask=0xF),
                        Register(Reg.ADDRESS, Access.RW, bits=64),
                        Register(Reg.LENGTH, Access.RW, mask=0xFFFF),
                        Register(Reg.ONCE, Access.RC),
                        Register(Reg.SET, Access.W1S),
                        Register(Reg.CLEARED, Access.W1C),
                        Register(Reg.BYTE, Access.RW, bits=8, reset=0x5A),
                        Register(Reg.COMMAND, Access.SELF_CLEARING, bits=16),
                    ]
                ),
                0x1000: MemoryBar(0x100),
                0x1100: CallbackBar(0x100),
                0x3000: SharedBar(0x1000, ((0, 0x1000),)),
            },
            bits=64,
        ),
        2: MemoryBar(32 * MEBIBYTE),
        3: IoBar([Register(Reg.ADDRESS, Access.RW)], prefix="io"),
        4: MemoryBar(32 * MEBIBYTE, bits=64, prefetchable=True),
    }
    capabilities: ClassVar[tuple[Capability, ...]] = (
        VendorSpecific(b"fuzz"),
        AtomicOps(completes=(4, 8)),
        ResizableBar({2: (MEBIBYTE, 32 * MEBIBYTE), 4: (MEBIBYTE, 32 * MEBIBYTE)}),
        LatencyToleranceReporting(),
        AccessControlServices(),
        AddressTranslationServices(),
        ProcessAddressSpaceId(),
        PageRequest(4),
        DeviceSerialNumber(1),
        Dvsec(0x1234, 1, writable=0xFFFF_0000, commands=1 << 31, on_write=lambda _value: None),
    )

    def __init__(self) -> None:
        super().__init__()
        self.control = self.registers(0)

    def write_bell(self, index: int, value: int) -> None:
        """Do one thing of each kind."""
        try:
            (self._coroutine, self._timer_later, self._posted_later, self._line, self._dma)[
                index % 5
            ](value)
        except (TooManyRunning, TooMuchPosted):
            self.control[Reg.ONCE] |= 1

    def _coroutine(self, value: int) -> None:
        self.start(self._work(value))

    async def _work(self, value: int) -> None:
        try:
            address, length = self.control[Reg.ADDRESS], self.control[Reg.LENGTH]
            data = await self.bus.reading(address, length)
            if value & 1:
                await self.sleep(value >> 4 & 7)
            await self.bus.writing(address, data)
            self.msix(value % 80)
        finally:
            self.control[Reg.ONCE] |= 2

    def _timer_later(self, value: int) -> None:
        self.timers.after(value & 7, lambda: self._line(value >> 8))

    def _posted_later(self, value: int) -> None:
        self.post(lambda: self._line(value))

    def _line(self, value: int) -> None:
        line = self.interrupts.line(value % IRQS[Irq.MSIX])
        if value & 1 << 8:
            line.send()
        else:
            line.level = not line.level

    def _dma(self, value: int) -> None:
        address = self.control[Reg.ADDRESS]
        if value & 1:
            self.bus.fetch_add(address, value)
        elif value & 2:
            self.msi(value % 40)
            self.intx(bool(value & 4))
        else:
            self.bus.write(address, self.bus.read(address, self.control[Reg.LENGTH]))

    def write_command(self, value: int) -> None:
        """Reset the function by itself, now or soon."""
        if value & 1:
            self.post(self.reset_by_device)
        if value & 2:
            self.signal_error()
            self.request_removal()

    def read_bar0(self, offset: int, length: int) -> bytes:
        """Say where each byte is."""
        assert offset >= 0x1100
        assert offset + length <= 0x1200
        return bytes((offset + n) & 0xFF for n in range(length))

    def write_bar0(self, offset: int, data: bytes) -> None:
        """Start a DMA by message."""
        assert offset >= 0x1100
        assert offset + len(data) <= 0x1200
        self.bus.write_async(self.control[Reg.ADDRESS], data, self._done, by_message=True)

    def _done(self, outcome: bytes | DmaRefused) -> None:
        self.control[Reg.STATUS, 0] = isinstance(outcome, DmaRefused)


ODD = Odd()
POWER = (ODD.config.start_of(PowerManagement) or 0) + 4  # PMCSR
DEVICE_CONTROL = (ODD.config.start_of(PciExpress) or 0) + Offset.DEVICE_CONTROL


def snapshot(model: Endpoint) -> object:
    """Return what a reset has to restore."""
    contents = {
        index: content.peek(0, min(model.region_size(index), 0x4000))
        for index, content in model.contents.items()
    }
    interrupts = model.interrupts
    return (
        model.region_read(CONFIG, 0, PAGE),
        contents,
        [model.region_size(index) for index in range(9)],
        (model.timers.kept, model.posted.waiting, model.bus.queue.idle),
        (interrupts.msix.pending_bits, interrupts.msi.pending_bits, interrupts.intx.level),
        [interrupts.line(number).level for number in range(IRQS[Irq.MSIX])],
    )


FRESH = snapshot(ODD)


class Failures(logging.Handler):
    """Raises what the server only logs: a failure of the model, or of what runs it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it: a handler's own exceptions go nowhere."""
        self.found.append(record.getMessage() + repr(record.exc_info and record.exc_info[1]))


@contextmanager
def no_failures() -> Iterator[None]:
    """Raise AssertionError for what is logged as an error meanwhile."""
    logger, disabled = logging.getLogger("dma_rehearsal"), logging.root.manager.disable
    failures, propagate = Failures(), logger.propagate
    logger.addHandler(failures)
    logger.propagate = False
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.removeHandler(failures)
        logger.propagate = propagate
    assert not failures.found, failures.found


def any_device(data: bytes) -> None:
    """Accesses, configuration, interrupts, resets, migrations and DMA in any order."""
    choices = Choices(data)
    with no_failures(), peer(ODD) as made:
        made.negotiate()
        made.grant()
        made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, BARE, BARE_SIZE))
        write(made, CONFIG, 4, b"\x07\x00")
        while choices.more:
            _step(made, choices)
        made.command(Command.DEVICE_RESET)
        assert snapshot(ODD) == FRESH, "a reset leaves something"
    ODD.posted.forget()


def write(made: Peer, region: int, offset: int, data: bytes) -> None:
    """Write; the answer comes at once."""
    message = struct.pack("<QII", offset, region, len(data)) + data
    answers = made.command(Command.REGION_WRITE, message)
    assert sum(bool(each.flags & Flags.REPLY) for each in answers) == 1


def _place(choices: Choices) -> tuple[int, int, int]:
    """Choose a region, an offset and a length, often at an edge."""
    region, length = (
        choices.pick((0, 0, 0, 0, 2, 3, 4, ROM, CONFIG, CONFIG, 8)),
        choices.pick(LENGTHS),
    )
    if region == CONFIG:
        slot = choices.pick(ODD.config._slots)
        near = choices.pick((0, 4, 0x10, 0x30, slot.start, slot.body, slot.end - 1, 0xFFF))
        return region, max(0, near + choices.number(16) - 4), length
    edges = (0, Reg.ADDRESS, Reg.COMMAND, 0x1000, 0x1100, 0x1200, TABLE, PBA, 0x3000, MEBIBYTE)
    near = choices.pick((*edges, ODD.region_size(region)))
    return region, max(0, near + choices.number(16) - 8), length


def _step(made: Peer, choices: Choices) -> None:
    kind = choices.number(16)
    if kind < 5:
        region, offset, length = _place(choices)
        write(made, region, offset, choices.data(length))
    elif kind < 8:
        region, offset, length = _place(choices)
        made.command(Command.REGION_READ, struct.pack("<QII", offset, region, length))
    elif kind < 10:
        write(made, 0, Reg.ADDRESS, struct.pack("<Q", choices.pick(ADDRESSES)))
        write(made, 0, Reg.LENGTH, struct.pack("<I", choices.pick((0, 4, 64, PAGE, 0xFFFF))))
        write(made, 0, Reg.BELL + 8 * choices.number(8), choices.data(4))
    elif kind == 10:
        made.command(Command.DEVICE_RESET)
    elif kind == 11:
        _interrupts(made, choices)
    elif kind == 12:
        _time(made, choices)
    elif kind == 13:
        _memory(made, choices)
    elif kind == 14:
        _state(made, choices)
    else:
        _answer(made, choices)


def _state(made: Peer, choices: Choices) -> None:
    """Migrate, sleep, wake or reset the function."""
    kind = choices.number(4)
    if kind == 0:
        made.command(Command.DEVICE_FEATURE, choices.payload())
    elif kind == 1:
        payload = struct.pack("<4I", 16, MIG_DEVICE_STATE, choices.number(8), 0)
        made.command(Command.DEVICE_FEATURE, payload)
    elif kind == 2:
        write(made, CONFIG, POWER, choices.pick((b"\3", b"\0")))
    else:
        write(made, CONFIG, DEVICE_CONTROL + 1, b"\x80")


def _interrupts(made: Peer, choices: Choices) -> None:
    index = choices.pick([*IRQS])
    flags = choices.pick((0x21, 0x22, 0x24, 0x09, 0x0A, 0x11, 0x12, choices.number(64)))
    start, count = choices.number(80), choices.number(4)
    payload = struct.pack("<IIIII", 20 + count, flags, index, start, count)
    if flags & 2:
        payload += choices.data(count)
    given = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(count if flags & 4 else 0)]
    made.feed(framed(4, Command.DEVICE_SET_IRQS, payload), given)


def _time(made: Peer, choices: Choices) -> None:
    made.now += choices.pick((0, 6))
    made.connection.tick()
    made.collect()
    ODD.timers.run_due()
    ODD.posted.run(Turn())
    made.connection.tick()
    made.collect()


def _memory(made: Peer, choices: Choices) -> None:
    address = choices.pick((BASE, BARE))
    made.command(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, address, 0x10_0000))
    if choices.number(2):
        made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, BARE, BARE_SIZE))
    elif choices.number(2):
        payload = struct.pack("<IIQQQ", 32, 3, PAGE, BASE, PAGE)
        made.feed(framed(2, Command.DMA_MAP, payload), [os.dup(made.memory)])


def _answer(made: Peer, choices: Choices) -> None:
    if not made.asked:
        return
    header, payload = made.asked.pop(0)
    access = DmaAccess.unpack(payload)
    error = choices.pick((0, 0, errno.EFAULT))
    reply = access.pack() + (bytes(access.count) if header.command == Command.DMA_READ else b"")
    flags = Flags.REPLY | (Flags.ERROR if error else 0)
    made.feed(framed(header.message_id, header.command, b"" if error else reply, flags, error))


TARGETS[any_device.__name__] = any_device
