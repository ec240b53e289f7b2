# SPDX-License-Identifier: Apache-2.0
"""A virtio block device over PCI, without legacy interface (VIRTIO 1.2, 4.1 and 5.2).

    make test-vm DRIVER=virtio_pci KERNEL_MODULES=virtio_blk \
        ENDPOINT=examples.virtio_blk.blk_device:VirtioBlk TESTS=examples/virtio_blk/guest_tests

A doorbell's requests are carried out at once, in order. Data that memory refuses ends a request
with an I/O error. A ring that memory refuses, or that breaks a rule, stops the device until the
driver resets it (2.1.2).
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from functools import partial
from io import BytesIO
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    DmaRefused,
    Endpoint,
    Identity,
    MsixBars,
    Register,
    RegisterArray,
    RegisterBar,
    Trace,
)
from dma_rehearsal.device.pci.vendor import VendorSpecific
from examples.virtio_blk import virtqueue
from examples.virtio_blk.virtqueue import Chain, RingError, Segments, Virtqueue

QUEUES, QUEUE_SIZE, VECTORS = 2, 128, 3  # a vector of the configuration, and one of each queue
NO_VECTOR = 0xFFFF
# Bytes, and blocks: 16 MiB; bytes of requests before other accesses have their turn.
BLOCK, BLOCKS, TURN_BYTES = 512, 32768, 16 << 20
QUEUE_CAUSE, CONFIG_CAUSE = 1 << 0, 1 << 1  # bits of the ISR status (4.1.4.5)
IN, OUT, FLUSH = 0, 1, 4  # types of requests (5.2.6)
OK, IOERR, UNSUPP = range(3)  # status bytes of requests
HEADER = struct.Struct("<IIQ")  # 5.2.6: type, reserved, sector

# BAR0, and the capabilities that say where each part is (4.1.4): type, BAR, id, offset, length.
COMMON, ISR, DEVICE, NOTIFY, MSIX_TABLE, MSIX_PBA = range(0, 0x6000, 0x1000)
BAR_SIZE, NOTIFY_STRIDE = 0x8000, 4
_CAPABILITY = struct.Struct("<BBB2xII")
CAPABILITIES = (
    _CAPABILITY.pack(1, 0, 0, COMMON, 0x38),
    _CAPABILITY.pack(2, 0, 0, NOTIFY, QUEUES * NOTIFY_STRIDE) + struct.pack("<I", NOTIFY_STRIDE),
    _CAPABILITY.pack(3, 0, 0, ISR, 1),
    _CAPABILITY.pack(4, 0, 0, DEVICE, 0x40),
)


class Reg(IntEnum):
    """Registers of BAR0: the common configuration (4.1.4.3), ISR, the disk (5.2.4), doorbells."""

    DEVICE_FEATURE_SELECT = COMMON + 0x00
    DEVICE_FEATURE = COMMON + 0x04
    DRIVER_FEATURE_SELECT = COMMON + 0x08
    DRIVER_FEATURE = COMMON + 0x0C
    CONFIG_MSIX_VECTOR = COMMON + 0x10
    NUM_QUEUES = COMMON + 0x12
    DEVICE_STATUS = COMMON + 0x14
    QUEUE_SELECT = COMMON + 0x16
    QUEUE_SIZE = COMMON + 0x18
    QUEUE_MSIX_VECTOR = COMMON + 0x1A
    QUEUE_ENABLE = COMMON + 0x1C
    QUEUE_NOTIFY_OFF = COMMON + 0x1E
    QUEUE_DESC = COMMON + 0x20
    QUEUE_DRIVER = COMMON + 0x28
    QUEUE_DEVICE = COMMON + 0x30
    ISR_STATUS = ISR
    CAPACITY = DEVICE + 0x00
    SEG_MAX = DEVICE + 0x0C
    DISK_QUEUES = DEVICE + 0x22
    NOTIFY = NOTIFY


class Status(IntFlag):
    """Bits of the device status that the device looks at (2.1)."""

    DRIVER_OK = 1 << 2
    FEATURES_OK = 1 << 3
    NEEDS_RESET = 1 << 6


class Feature(IntFlag):
    """The features that this device offers (5.2.3, 6)."""

    SEG_MAX = 1 << 2
    FLUSH = 1 << 9
    MQ = 1 << 12
    INDIRECT_DESC = virtqueue.INDIRECT_DESC
    EVENT_IDX = virtqueue.EVENT_IDX
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33


_OFFERED = Feature(sum(Feature))
_NEEDED = Feature.VERSION_1 | Feature.ACCESS_PLATFORM
# The registers of the queue that QUEUE_SELECT names.
_BANK = [each for each in Reg if Reg.QUEUE_SIZE <= each <= Reg.QUEUE_DEVICE]


class VirtioBlk(Endpoint):
    """A disk of 16 MiB with two queues. The subsystem's vendor tells it from QEMU's devices."""

    name = "virtio-blk"
    identity = Identity(0x1AF4, 0x1042, 0x010000, 0x1234, 0x5642, 1, interrupt_pin=1)
    capabilities = tuple(VendorSpecific(content) for content in CAPABILITIES)
    vectors = VECTORS
    msix_bars = MsixBars(0, 0, MSIX_PBA, MSIX_TABLE)
    bars: ClassVar = {
        0: RegisterBar(
            (
                Register(Reg.DEVICE_FEATURE_SELECT, Access.RW),
                Register(Reg.DEVICE_FEATURE),
                Register(Reg.DRIVER_FEATURE_SELECT, Access.RW),
                Register(Reg.DRIVER_FEATURE, Access.WO),
                Register(Reg.CONFIG_MSIX_VECTOR, Access.RW, reset=NO_VECTOR, bits=16),
                Register(Reg.NUM_QUEUES, reset=QUEUES, bits=16),
                Register(Reg.DEVICE_STATUS, Access.RW, mask=0xFF - Status.NEEDS_RESET, bits=8),
                Register(Reg.QUEUE_SELECT, Access.RW, bits=16),
                Register(Reg.QUEUE_SIZE, Access.RW, bits=16),
                Register(Reg.QUEUE_MSIX_VECTOR, Access.RW, bits=16),
                Register(Reg.QUEUE_ENABLE, Access.RW, bits=16),
                Register(Reg.QUEUE_NOTIFY_OFF, bits=16),
                Register(Reg.QUEUE_DESC, Access.RW, bits=64),
                Register(Reg.QUEUE_DRIVER, Access.RW, bits=64),
                Register(Reg.QUEUE_DEVICE, Access.RW, bits=64),
                Register(Reg.ISR_STATUS, Access.RC, bits=8),
                Register(Reg.CAPACITY, reset=BLOCKS, bits=64),
                Register(Reg.SEG_MAX, reset=QUEUE_SIZE - 2),
                Register(Reg.DISK_QUEUES, reset=QUEUES, bits=16),
                RegisterArray(Reg.NOTIFY, QUEUES, NOTIFY_STRIDE, Access.WO, bits=16),
            ),
            BAR_SIZE,
            bits=64,
        )
    }

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.blocks = bytearray(BLOCK * BLOCKS)
        self.control = self.registers(0)
        self.on_reset()

    # Its life.

    def on_reset(self) -> None:
        """Forget all but the blocks."""
        self._features = 0  # of the driver
        self._queues: dict[int, Virtqueue] = {}
        self._selected = 0
        self._banks = [[QUEUE_SIZE, NO_VECTOR, 0, n, 0, 0, 0] for n in range(QUEUES)]
        self._load_bank()

    def write_device_status(self, value: int) -> None:
        """Reset the device, or agree on features (2.1, 3.1.1)."""
        if value == 0:
            self.control.reset()
            self.intx(False)
            self.on_reset()
        elif self._features & ~int(_OFFERED) or ~self._features & _NEEDED:
            self.control[Reg.DEVICE_STATUS] &= ~Status.FEATURES_OK

    def read_device_feature(self) -> int:
        """Return the 32 features that are selected."""
        return _half(_OFFERED, self.control[Reg.DEVICE_FEATURE_SELECT])

    def write_driver_feature(self, value: int) -> None:
        """Take 32 features of the driver."""
        select = self.control[Reg.DRIVER_FEATURE_SELECT]
        if select < 2 and not self.control[Reg.DEVICE_STATUS] & Status.FEATURES_OK:
            self._features += value - _half(self._features, select) << 32 * select

    # Queues.

    def write_queue_select(self, value: int) -> None:
        """Show another queue in the registers; one that does not exist has no entries."""
        if self._selected < QUEUES:
            self._banks[self._selected] = [self.control[each] for each in _BANK]
        self._selected = value
        self._load_bank()

    def _load_bank(self) -> None:
        bank = self._banks[self._selected] if self._selected < QUEUES else [0] * len(_BANK)
        for register, value in zip(_BANK, bank, strict=True):
            self.control[register] = value

    def write_queue_msix_vector(self, value: int) -> None:
        """Take a vector that exists (4.1.5.1.2)."""
        self.control[Reg.QUEUE_MSIX_VECTOR] = value if value < VECTORS else NO_VECTOR

    def write_config_msix_vector(self, value: int) -> None:
        """Take a vector that exists."""
        self.control[Reg.CONFIG_MSIX_VECTOR] = value if value < VECTORS else NO_VECTOR

    def write_queue_enable(self, value: int) -> None:
        """Begin to use the queue that is selected, as its registers say."""
        size, vector, _, _, *addresses = (self.control[each] for each in _BANK)
        wrong = not 0 < size <= QUEUE_SIZE or size & (size - 1) or self._selected >= QUEUES
        if value != 1 or wrong or self._selected in self._queues:
            self.control[Reg.QUEUE_ENABLE] = int(self._selected in self._queues)
            return
        queue = Virtqueue(self.bus, self._features, size, vector, *addresses)
        self._queues[self._selected] = queue

    def write_notify(self, number: int, _value: int) -> None:
        """Carry out what is available in a queue, unless that is posted already."""
        if number in self._queues and not self._queues[number].posted:
            self._serve(number)

    def _serve(self, number: int) -> None:
        """Carry out requests for one turn; a driver that keeps adding waits for the next."""
        queue = self._queues.get(number)
        status = self.control[Reg.DEVICE_STATUS]
        if queue is None or status & Status.NEEDS_RESET or not status & Status.DRIVER_OK:
            return
        left = TURN_BYTES
        try:
            for _ in range(queue.waiting()):
                chain = queue.take()
                queue.give_back(chain, self._carry_out(chain))
                left -= _size(chain.readable) + _size(chain.writable)
                if left <= 0:
                    break
            if queue.wants_interrupt():
                self._interrupt(queue.vector, QUEUE_CAUSE)
            queue.posted = queue.waiting() > 0
            if queue.posted:
                self.post(partial(self._serve, number))
        except (RingError, DmaRefused):
            self.control[Reg.DEVICE_STATUS] |= Status.NEEDS_RESET
            self._interrupt(self.control[Reg.CONFIG_MSIX_VECTOR], CONFIG_CAUSE)

    def read_isr_status(self) -> int:
        """Return the causes of the interrupt line, which falls: the read clears them."""
        self.intx(False)
        return self.control[Reg.ISR_STATUS]

    def _interrupt(self, vector: int, cause: int) -> None:
        if not self.interrupts.msix.enabled:
            self.control[Reg.ISR_STATUS] |= cause
            self.intx(True)
        elif vector != NO_VECTOR:
            self.msix(vector)

    # Requests.

    def _carry_out(self, chain: Chain) -> int:
        """Carry out a request; return the bytes that were written."""
        header, to_read = _cut(chain.readable, HEADER.size)
        to_write, status = _cut(chain.writable, _size(chain.writable) - 1)
        if _size(header) != HEADER.size or _size(status) != 1:
            raise RingError("a request without a header or a status")
        kind, _, sector = HEADER.unpack(b"".join(self.bus.read_list(header)))
        try:
            answer = self._move(kind, sector * BLOCK, to_read, to_write)
        except DmaRefused:
            answer = IOERR
        self.bus.write(status[0][0], bytes([answer]))
        return _size(to_write) + 1 if (kind, answer) == (IN, OK) else int(not to_write)

    def _move(self, kind: int, start: int, to_read: Segments, to_write: Segments) -> int:
        if kind == FLUSH:
            return OK
        if kind not in (IN, OUT):
            return UNSUPP
        segments = to_write if kind == IN else to_read
        end = start + _size(segments)
        if end > len(self.blocks) or end % BLOCK:
            return IOERR
        if kind == OUT:
            self.blocks[start:end] = b"".join(self.bus.read_list(segments))
        else:
            with BytesIO(self.blocks[start:end]) as data:
                self.bus.write_list([(address, data.read(length)) for address, length in segments])
        return OK


def _half(features: int, select: int) -> int:
    return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0


def _size(segments: Segments) -> int:
    return sum(length for _, length in segments)


def _cut(segments: Segments, size: int) -> tuple[Segments, Segments]:
    """Divide segments behind their first ``size`` bytes: a driver may frame them as it likes."""
    first: Segments = []
    rest: Segments = []
    for address, length in segments:
        here = max(0, min(length, size))
        size -= here
        first += [(address, here)] * bool(here)
        rest += [(address + here, length - here)] * bool(length - here)
    return first, rest
