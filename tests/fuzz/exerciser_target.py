# SPDX-License-Identifier: Apache-2.0
"""The fuzz target of the exerciser: registers in any order, and memory that takes its time.

Beside the granted page there is memory that only the client reaches, so DMA of the registers and of
the ring is under way while anything else comes: other registers, resets, configuration writes,
unmaps, late answers and none.
"""

from __future__ import annotations

import errno
import struct

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaCtl, Ext, Reg, RingDescriptor
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Command, DmaAccess, Flags
from tests.fuzz.targets import BASE, PAGE, TARGETS, Choices, Peer, framed, peer

BARE, BARE_SIZE = 0x100_0000, 1 << 20
ADDRESSES = (BASE, BASE + PAGE - 8, BARE, BARE + 64, BARE + BARE_SIZE - 4, 0, (1 << 64) - 4)
LENGTHS = (0, 1, 4, 64, PAGE, PAGE + 1, 0x1_0000, 0x1_0001, 0xFFFF_FFFF)
TRIGGERS = tuple(
    DmaCtl.TRIGGER | control | kind << 10
    for control in (0, DmaCtl.WRITE_MEMORY, DmaCtl.NO_SNOOP, DmaCtl.USE_ATC)
    for kind in range(4)
)
CONFIG = ((4, b"\4\0"), (4, b"\0\0"), (4, b"\6\0"), (0x48, b"\0\x80"), (0x80, b"\3"), (0x80, b"\0"))
VALUES = (0, 1, 2, 3, 4, 5, 16, PAGE, 0xFFFF_FFFF)
EXERCISER = Exerciser(Trace(), buffer_size=0x1_0000)


def any_exerciser(data: bytes) -> None:
    """Registers, configuration, DMA by messages, answers and resets, in any order."""
    choices = Choices(data)
    EXERCISER.device_reset()
    with peer(EXERCISER) as made:
        made.negotiate()
        made.grant()
        made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, BARE, BARE_SIZE))
        made.command(Command.REGION_WRITE, struct.pack("<QII", 4, 7, 2) + b"\6\0")
        while choices.more:
            _step(made, choices)
        _settle(made)


def _step(made: Peer, choices: Choices) -> None:
    kind = choices.number(8)
    if kind == 0:
        register, value = choices.pick([*Reg]), choices.pick(VALUES)
        write(made, 0, register, value)
    elif kind == 1:
        write(made, 3, choices.pick([*Ext]), choices.pick(VALUES))
    elif kind == 2:
        address = choices.pick(ADDRESSES)
        write(made, 0, Reg.DMA_BUS_ADDR_LO, address & 0xFFFF_FFFF)
        write(made, 0, Reg.DMA_BUS_ADDR_HI, address >> 32)
        write(made, 0, Reg.DMA_LEN, choices.pick(LENGTHS))
        write(made, 0, Reg.DMACTL, choices.pick(TRIGGERS))
    elif kind == 3:
        write(made, 3, Ext.RING_BASE_LO, choices.pick(ADDRESSES) & 0xFFFF_FFFF)
        write(made, 3, Ext.RING_SIZE, choices.pick((2, 16, 4096, 0)))
        write(made, 3, Ext.RING_CONTROL, 1)
        write(made, 3, Ext.RING_DOORBELL, choices.number(16))
    elif kind == 4:
        offset, content = choices.pick(CONFIG)
        access = struct.pack("<QII", offset, 7, len(content))
        made.command(Command.REGION_WRITE, access + content)
    elif kind == 5:
        made.now += choices.pick((0, 6))
        made.connection.tick()
        made.collect()
    elif kind == 6:
        address = choices.pick((BASE, BARE))
        made.command(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, address, 0x10_0000))
        if choices.number(2):
            made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, BARE, BARE_SIZE))
    else:
        _answer(made, choices)


def write(made: Peer, bar: int, register: int, value: int) -> None:
    """Write a register, which is always answered, and at once."""
    answers = made.command(
        Command.REGION_WRITE, struct.pack("<QIII", register, bar, 4, value & 0xFFFF_FFFF)
    )
    assert sum(bool(each.flags & Flags.REPLY) for each in answers) == 1
    read = made.command(Command.REGION_READ, struct.pack("<QII", register, bar, 4))
    assert [each.error for each in read if each.flags & Flags.REPLY] == [0]


def _answer(made: Peer, choices: Choices) -> None:
    """Answer what the server asked for first, rightly or with an error."""
    if not made.asked:
        return
    header, payload = made.asked.pop(0)
    access = DmaAccess.unpack(payload)
    error = choices.pick((0, 0, 0, errno.EFAULT))
    reply = access.pack()
    if header.command == Command.DMA_READ:
        # As descriptors: chains, directions and places that the choices make.
        flags = choices.number(16)
        place = RingDescriptor(choices.pick(ADDRESSES), choices.pick((1, 64, PAGE)), 0, flags)
        reply += (place.pack() * (access.count // 32 + 1))[: access.count]
    flags = Flags.REPLY | (Flags.ERROR if error else 0)
    made.feed(framed(header.message_id, header.command, b"" if error else reply, flags, error))


def _settle(made: Peer) -> None:
    """Answer all that is owed: nothing may be in flight then, but for what software holds."""
    command = bytes([EXERCISER.region_read(7, 4, 1)[0] | 2])  # the BARs answer, or HOLD stays
    made.command(Command.REGION_WRITE, struct.pack("<QII", 4, 7, 1) + command)
    write(made, 3, Ext.HOLD, 0)
    right = Choices(b"")
    for _ in range(1 << 14):
        if not made.asked:
            break
        _answer(made, right)
    made.now += 6
    made.connection.tick()
    if EXERCISER.config.bus_master:
        assert not made.asked
        assert not EXERCISER.hold.in_flight, "a DMA that never ends"
        assert not EXERCISER.ring.busy, "a ring that never ends"


TARGETS[any_exerciser.__name__] = any_exerciser
