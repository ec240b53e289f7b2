# SPDX-License-Identifier: Apache-2.0
"""Registers, commands and statuses of NVM Express Base Specification 1.4."""

import struct
from collections import namedtuple
from enum import IntEnum

from dma_rehearsal.device.endpoints import Access, Register, RegisterArray, RegisterBar

PAGE, BLOCK = 4096, 512  # bytes
VERSION = 0x0001_0400
# Pairs of queues, that of administration and those for I/O; the entries of one of the latter.
QUEUES, ENTRIES_MAX = 1 + 4, 1024
TRANSFER_PAGES, TRANSFER = 128, 128 * PAGE  # of a command at most; a power of two, for MDTS
# 3.1.1: MQES, CQR (queues are contiguous), TO of 10 s; the NVM command set, pages of 4 KiB.
CAPABILITIES = (ENTRIES_MAX - 1) | 1 << 16 | 20 << 24 | 1 << 37
# 3.1.5 CC: all between enable and shutdown must be 0 here; queue entries have 64 and 16 bytes.
ENABLE, SHUTDOWN, SHAPE_MASK, SHAPE = 0x1, 0xC000, 0x00FF_3FF0, 0x0046_0000
READY, FATAL, SHUTDOWN_COMPLETE = 1, 2, 8  # 3.1.6 CSTS
# 4.2 Submission Queue Entry (the flags are FUSE and PSDT), and 4.6 Completion Queue Entry: result,
# the submission queue's head and number, the command's identifier, status and phase.
COMMAND, COMPLETION = struct.Struct("<BBHI16xQQ4I8x"), struct.Struct("<I4xHHHH")
Command = namedtuple("Command", "opcode flags id namespace prp1 prp2 dw10 dw11 dw12 dw13")


class Reg(IntEnum):
    """3.1 Register Definition. The doorbells of queue n are 8 * n bytes further."""

    CAP, VS, INTMS, INTMC, CC, CSTS = 0x00, 0x08, 0x0C, 0x10, 0x14, 0x1C
    AQA, ASQ, ACQ = 0x24, 0x28, 0x30
    SQTDBL, CQHDBL = 0x1000, 0x1004


REGISTERS = (
    Register(Reg.CAP, reset=CAPABILITIES, bits=64),
    Register(Reg.VS, reset=VERSION),
    *(Register(Reg.INTMS, Access.W1S), Register(Reg.INTMC, Access.RW)),
    Register(Reg.CC, Access.RW, mask=ENABLE | SHUTDOWN | SHAPE_MASK),
    Register(Reg.CSTS),
    Register(Reg.AQA, Access.RW, mask=0x0FFF_0FFF),
    Register(Reg.ASQ, Access.RW, mask=-PAGE & 2**64 - 1, bits=64),
    Register(Reg.ACQ, Access.RW, mask=-PAGE & 2**64 - 1, bits=64),
    RegisterArray(Reg.SQTDBL, QUEUES, 8, Access.WO),
    RegisterArray(Reg.CQHDBL, QUEUES, 8, Access.WO),
)
BAR = RegisterBar(REGISTERS, 0x2000)


class Status(IntEnum):
    """4.6.1 Status Field: Status Code Type and Status Code; -1: not complete yet."""

    OUTSTANDING, SUCCESS, INVALID_OPCODE, INVALID_FIELD = -1, 0x000, 0x001, 0x002
    DATA_TRANSFER_ERROR, INTERNAL_ERROR, ABORT_REQUESTED = 0x004, 0x006, 0x007
    INVALID_NAMESPACE, PRP_OFFSET_INVALID, LBA_OUT_OF_RANGE = 0x00B, 0x013, 0x080
    COMPLETION_QUEUE_INVALID, INVALID_QUEUE_IDENTIFIER, INVALID_QUEUE_SIZE = 0x100, 0x101, 0x102
    EVENT_LIMIT_EXCEEDED, INVALID_INTERRUPT_VECTOR, INVALID_LOG_PAGE = 0x105, 0x108, 0x109
    INVALID_QUEUE_DELETION, NOT_SAVEABLE = 0x10C, 0x10D


class CommandFailed(Exception):
    """A command ends with the status that is the argument."""


def check(condition: object, status: Status) -> None:
    """Raise CommandFailed unless the condition is true."""
    if not condition:
        raise CommandFailed(status)
