# SPDX-License-Identifier: Apache-2.0
"""A driver of the NVMe example: queues in a fake client's memory, commands by their fields."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.trace import Trace
from examples.nvme.controller import Nvme
from examples.nvme.layout import READY, Reg, Status
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32

ENTRY = struct.Struct("<BBHI16xQQ6I")  # a submission queue entry
ENABLE = 1 | 6 << 16 | 4 << 20  # CC: enabled, entries of 64 and 16 bytes
PAGE = 4096
NAMESPACE = 1
AGAIN = (Status.SUCCESS, Status.ABORT_REQUESTED)  # without Do Not Retry
DATA = BASE + 0x1_8000  # 132 KiB, behind the page of a PRP list


class Admin(IntEnum):
    """Opcodes of the admin command set."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    EVENT_REQUEST = 0x0C


class Io(IntEnum):
    """Opcodes of the NVM command set."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09


def tail_doorbell(queue: int) -> int:
    return Reg.SQTDBL + 8 * queue


def head_doorbell(queue: int) -> int:
    return Reg.CQHDBL + 8 * queue


@dataclass
class Pair:
    """A submission queue and its completion queue, with the software's side of both."""

    number: int
    submissions: int
    completions: int
    size: int
    tail: int = 0
    head: int = 0
    phase: int = 1


@dataclass(frozen=True)
class Answer:
    """A completion."""

    result: int
    identifier: int
    status: Status
    head: int


@dataclass
class Host:
    """The controller, its client, and a driver without a kernel."""

    client: FakeClient = field(default_factory=FakeClient)
    nvme: Nvme = field(default_factory=lambda: Nvme(Trace()))
    next: int = 0

    def __post_init__(self) -> None:
        self.nvme.attach(self.client)
        start(self.nvme)

    # Registers.

    def take_away_msix(self) -> None:
        """Have the function use INTx."""
        control = self.nvme.config.start_of(MsiX)
        assert control is not None
        self.nvme.region_write(7, control + 2, b"\0\0")

    def write(self, register: int, value: int) -> None:
        write32(self.nvme, 0, register, value)

    @property
    def csts(self) -> int:
        return read32(self.nvme, 0, Reg.CSTS)

    def enable(self, size: int = 8) -> Pair:
        """Enable the controller; return the admin queues."""
        admin = Pair(0, BASE, BASE + PAGE, size)
        self.write(Reg.AQA, size - 1 | (size - 1) << 16)
        self.write(Reg.ASQ, admin.submissions)
        self.write(Reg.ACQ, admin.completions)
        self.write(Reg.CC, ENABLE)
        assert self.csts == READY
        return admin

    # Memory.

    def put(self, address: int, data: bytes) -> None:
        self.client.ram[address - BASE : address - BASE + len(data)] = data

    def get(self, address: int, length: int) -> bytes:
        return bytes(self.client.ram[address - BASE : address - BASE + length])

    # Commands.

    def submit(
        self,
        pair: Pair,
        opcode: int,
        *dwords: int,
        namespace: int = 0,
        prp: tuple[int, int] = (0, 0),
        flags: int = 0,
        ring: bool = True,
    ) -> int:
        """Put a command into a queue, ring its doorbell; return its identifier."""
        self.next += 1
        padded = (*dwords, *(0,) * (6 - len(dwords)))
        entry = ENTRY.pack(opcode, flags, self.next, namespace, *prp, *padded)
        self.put(pair.submissions + 64 * pair.tail, entry)
        pair.tail = (pair.tail + 1) % pair.size
        if ring:
            self.write(tail_doorbell(pair.number), pair.tail)
        return self.next

    def answers(self, pair: Pair, *, ring: bool = True) -> list[Answer]:
        """Take the completions that are there, and those of commands that leave others a turn."""
        self.nvme.timers.run_due()
        found = []
        while True:
            entry = self.get(pair.completions + 16 * pair.head, 16)
            result, _, head, queue, identifier, status = struct.unpack("<IIHHHH", entry)
            if status & 1 != pair.phase:
                break
            assert queue == pair.number
            code = Status(status >> 1 & 0x7FF)
            assert bool(status >> 15) == (code not in AGAIN), "Do Not Retry of a failure"
            found.append(Answer(result, identifier, code, head))
            pair.head = (pair.head + 1) % pair.size
            pair.phase ^= not pair.head
        if ring:
            self.write(head_doorbell(pair.number), pair.head)
        return found

    def do(
        self,
        pair: Pair,
        opcode: int,
        *dwords: int,
        namespace: int = 0,
        prp: tuple[int, int] = (0, 0),
        flags: int = 0,
    ) -> tuple[Status, int]:
        """Do one command; return its status and result."""
        identifier = self.submit(pair, opcode, *dwords, namespace=namespace, prp=prp, flags=flags)
        (answer,) = self.answers(pair)
        assert answer.identifier == identifier
        return answer.status, answer.result

    def io_pair(self, admin: Pair, number: int = 1, size: int = 8) -> Pair:
        """Make a pair of I/O queues with the vector of its number."""
        place = BASE + 2 * PAGE * (1 + number)
        pair = Pair(number, place, place + PAGE, size)
        shape = (size - 1) << 16 | number
        done = self.do(admin, Admin.CREATE_CQ, shape, number << 16 | 3, prp=(pair.completions, 0))
        assert done == (Status.SUCCESS, 0)
        done = self.do(admin, Admin.CREATE_SQ, shape, number << 16 | 1, prp=(pair.submissions, 0))
        assert done == (Status.SUCCESS, 0)
        return pair

    def move(
        self, pair: Pair, opcode: Io, start: int, count: int, prp: tuple[int, int] = (DATA, 0)
    ) -> Status:
        """Read or write blocks; return the status."""
        words = start & 0xFFFF_FFFF, start >> 32, count - 1
        return self.do(pair, opcode, *words, namespace=NAMESPACE, prp=prp)[0]
