# SPDX-License-Identifier: Apache-2.0
"""Registers, commands and statuses of NVM Express Base Specification 1.4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dma_rehearsal.device.endpoints import Field, Fields

PAGE = 4096  # bytes; CC.MPS has no other value here
BLOCK_SHIFT = 9
BLOCK = 1 << BLOCK_SHIFT
VERSION = 0x0001_0400
QUEUE_ENTRIES_MAX = 128  # bounds the work of one doorbell
IO_QUEUES = 4  # pairs, beside that of administration
VECTORS = 1 + IO_QUEUES
MDTS = 5  # a transfer has at most 2 ** MDTS pages
TRANSFER_MAX = PAGE << MDTS
EVENT_REQUESTS = 4  # Asynchronous Event Requests that may be outstanding
BAR_SIZE = 0x2000


class Reg(IntEnum):
    """3.1 Register Definition. Registers of 64 bits have two names."""

    CAP_LO = 0x00
    CAP_HI = 0x04
    VS = 0x08
    INTMS = 0x0C
    INTMC = 0x10
    CC = 0x14
    CSTS = 0x1C
    AQA = 0x24
    ASQ_LO = 0x28
    ASQ_HI = 0x2C
    ACQ_LO = 0x30
    ACQ_HI = 0x34


class Doorbell(IntEnum):
    """3.1.25 and 3.1.26: the tail of each submission queue, then the head of its completion queue.

    One pair for each of 1 + IO_QUEUES.
    """

    SQ0TDBL = 0x1000
    CQ0HDBL = 0x1004
    SQ1TDBL = 0x1008
    CQ1HDBL = 0x100C
    SQ2TDBL = 0x1010
    CQ2HDBL = 0x1014
    SQ3TDBL = 0x1018
    CQ3HDBL = 0x101C
    SQ4TDBL = 0x1020
    CQ4HDBL = 0x1024


# 3.1.1: MQES, CQR (queues are contiguous), TO of 10 s; doorbells lie side by side.
CAP_LO = (QUEUE_ENTRIES_MAX - 1) | 1 << 16 | 20 << 24
CAP_HI = 1 << 5  # the NVM command set; pages of 4 KiB


class Configuration(Fields):
    """3.1.5 CC."""

    enable = Field(1 << 0)
    command_set = Field(0x70)
    page_size = Field(0x780)
    shutdown = Field(0xC000)
    submission_size = Field(0xF_0000)
    completion_size = Field(0xF0_0000)


class Csts(IntEnum):
    """3.1.6 CSTS."""

    READY = 1 << 0
    FATAL = 1 << 1
    SHUTDOWN_COMPLETE = 2 << 2


class Admin(IntEnum):
    """5 Admin Command Set: opcodes."""

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
    """6 NVM Command Set: opcodes."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09


class Status(IntEnum):
    """4.6.1 Status Field: Status Code Type and Status Code, without Do Not Retry."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    INVALID_NAMESPACE = 0x00B
    PRP_OFFSET_INVALID = 0x013
    LBA_OUT_OF_RANGE = 0x080
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE_IDENTIFIER = 0x101
    INVALID_QUEUE_SIZE = 0x102
    EVENT_LIMIT_EXCEEDED = 0x105
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    NOT_SAVEABLE = 0x10D


DO_NOT_RETRY = 1 << 14  # in the Status Field


class CommandFailed(Exception):
    """A command ends with ``status``."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True, slots=True)
class Command:
    """4.2 Submission Queue Entry."""

    STRUCT = struct.Struct("<BBHI16xQQ6I")

    opcode: int
    flags: int  # FUSE and PSDT
    identifier: int
    namespace: int
    prp1: int
    prp2: int
    dwords: tuple[int, ...]  # 10 to 15

    @classmethod
    def unpack(cls, data: bytes) -> Command:
        """Return the command of 64 bytes."""
        opcode, flags, identifier, namespace, prp1, prp2, *dwords = cls.STRUCT.unpack(data)
        return cls(opcode, flags, identifier, namespace, prp1, prp2, tuple(dwords))

    def dword(self, number: int) -> int:
        """Return Command Dword 10 to 15."""
        return self.dwords[number - 10]


@dataclass(frozen=True, slots=True)
class Completion:
    """4.6 Completion Queue Entry."""

    STRUCT = struct.Struct("<IIHHHH")

    result: int
    head: int
    queue: int
    identifier: int
    status: Status
    phase: int

    def pack(self) -> bytes:
        """Return 16 bytes. A command that failed would fail again."""
        status = int(self.status) | (DO_NOT_RETRY if self.status else 0)
        field = status << 1 | self.phase
        return self.STRUCT.pack(self.result, 0, self.head, self.queue, self.identifier, field)
