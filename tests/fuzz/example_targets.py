# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets of the NVMe and the virtio example: queues that a hostile driver fills.

Entries, lists and rings lie anywhere, over each other too; registers, resets and unmaps come in
between. Beside what holds for each target, nothing fails, what a driver makes the model keep has a
bound, and a reset leaves a model as it was made.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dma_rehearsal.device.endpoints import Endpoint
from dma_rehearsal.device.vfio_user.messages import Command, DmaAccess, Flags
from dma_rehearsal.device.vfio_user.turn import Turn
from examples.nvme import layout
from examples.nvme.controller import ADMIN, BATCH, IO, Nvme
from examples.nvme.layout import QUEUES
from examples.nvme.layout import Reg as NvmeReg
from examples.nvme.namespace import EVENT_REQUESTS
from examples.virtio_blk.blk_device import Reg as BlkReg
from examples.virtio_blk.blk_device import VirtioBlk
from tests.fuzz.device_target import no_failures, write
from tests.fuzz.targets import PAGE, TARGETS, Choices, Peer, framed, peer

RAM, RAM_SIZE = 0x20_0000, 16 * PAGE
BARE = 0x100_0000  # memory that only messages reach
CONFIG = 7
PLACES = (*range(RAM, RAM + RAM_SIZE, PAGE), RAM + 8, RAM + PAGE - 8, RAM + RAM_SIZE - 16, BARE)
BAD_PLACES = (0, 1, RAM + 4, RAM + RAM_SIZE, 0x8000_0000, (1 << 64) - PAGE, (1 << 64) - 1)
NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 127, 255, 1023, 1024, 0x7FFF, 0xFFFF)


class Small(Nvme):
    """The controller with little to clear."""

    places = (1 << 20, 1 << 18)


NVME, BLK = Small(), VirtioBlk()


@contextmanager
def driven(model: Endpoint) -> Iterator[tuple[Peer, mmap.mmap]]:
    """A connection whose client has memory of two kinds; at its end the function is reset."""
    memory = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.ftruncate(memory, RAM_SIZE)
    try:
        with no_failures(), peer(model) as made, mmap.mmap(memory, RAM_SIZE) as ram:
            made.negotiate()
            map_ram(made, memory)
            made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, BARE, PAGE))
            write(made, CONFIG, 4, b"\x06\x00")
            yield made, ram
            made.command(Command.DEVICE_RESET)
            assert model.bus.queue.idle
            assert (model.timers.kept, model.posted.waiting) == (0, 0)
            assert not model.interrupts.intx.level
    finally:
        os.close(memory)


def map_ram(made: Peer, memory: int) -> None:
    payload = struct.pack("<IIQQQ", 32, 3, 0, RAM, RAM_SIZE)
    made.feed(framed(2, Command.DMA_MAP, payload), [os.dup(memory)])


def place(choices: Choices) -> int:
    these: Sequence[int] = PLACES if choices.number(4) else BAD_PLACES
    return choices.pick(these)


def number(choices: Choices) -> int:
    return choices.pick(NUMBERS)


def put(ram: mmap.mmap, address: int, data: bytes) -> None:
    at = address - RAM
    if 0 <= at <= RAM_SIZE - len(data):
        ram[at : at + len(data)] = data


def write32(made: Peer, offset: int, value: int) -> None:
    write(made, 0, offset, struct.pack("<I", value & 0xFFFF_FFFF))


def turn(made: Peer, choices: Choices, model: Endpoint) -> None:
    """Have time pass, and answer what the client was asked: with anything, or an error."""
    made.connection.tick()
    made.collect()
    model.timers.run_due()
    model.posted.run(Turn())
    made.collect()
    while made.asked and choices.number(4):
        header, payload = made.asked.pop(0)
        access = DmaAccess.unpack(payload)
        error = choices.pick((0, 0, 0, errno.EFAULT))
        reply = access.pack()
        if header.command == Command.DMA_READ:
            reply += (choices.data(64) * (access.count // 64 + 1))[: access.count]
        flags = Flags.REPLY | (Flags.ERROR if error else 0)
        made.feed(framed(header.message_id, header.command, b"" if error else reply, flags, error))


# NVMe.


def any_nvme(data: bytes) -> None:
    """Commands, doorbells, resets and the enable bit in any order."""
    choices = Choices(data)
    with driven(NVME) as (made, ram):
        tails = [0] * QUEUES
        _enable(made, choices, ram, tails)
        while choices.more:
            _nvme_step(made, choices, ram, tails)
            _check_nvme()
    assert not NVME.submissions
    assert not NVME.completions


def _enable(made: Peer, choices: Choices, ram: mmap.mmap, tails: list[int]) -> None:
    """Enable the controller, and make two pairs of I/O queues, of which one may share its CQ."""
    tails[:] = [0] * QUEUES
    right = choices.number(8)
    write32(made, NvmeReg.AQA, 0x000F_000F if right else choices.pick(NUMBERS) * 0x1_0001)
    write(made, 0, NvmeReg.ASQ, struct.pack("<Q", RAM if right else place(choices)))
    write(made, 0, NvmeReg.ACQ, struct.pack("<Q", RAM + PAGE if right else place(choices)))
    write32(made, NvmeReg.CC, layout.SHAPE | layout.ENABLE)
    if right > 1 and NVME.submissions:
        for queue in 1, 2:
            at = RAM + 2 * PAGE * queue
            shape, wanted = 0x7_0000 | queue, choices.pick((1, queue))
            _enqueue(made, ram, tails, 0, _entry(5, 0, at + PAGE, words=(shape, queue << 16 | 3)))
            _enqueue(made, ram, tails, 0, _entry(1, 0, at, words=(shape, wanted << 16 | 1)))


def _nvme_step(made: Peer, choices: Choices, ram: mmap.mmap, tails: list[int]) -> None:
    kind = choices.number(12)
    if kind < 6:
        _submit(made, choices, ram, tails)
    elif kind == 6:
        bell = NvmeReg.CQHDBL if choices.number(4) else NvmeReg.SQTDBL
        write32(made, bell + 8 * choices.number(QUEUES + 1), number(choices))
    elif kind == 7:
        width = choices.pick((1, 2, 3, 4, 5, 8, 16))
        offset = choices.pick((*NvmeReg, NvmeReg.SQTDBL + 3, 0x1FF0))
        write(made, 0, offset, choices.data(width))
    elif kind == 8:
        write32(made, NvmeReg.CC, 0)
        if choices.number(4):
            _enable(made, choices, ram, tails)
    elif kind == 9:
        command = choices.pick((Command.DEVICE_RESET, Command.DMA_UNMAP))
        made.command(command, struct.pack("<IIQQ", 24, 0, RAM, RAM_SIZE) * (command == 3))
    elif kind == 10:
        write(made, CONFIG, 4, choices.pick((b"\2\0", b"\6\0")))
    else:
        turn(made, choices, NVME)


def _entry(
    opcode: int,
    namespace: int,
    *prp: int,
    words: Sequence[int],
    identifier: int = 0,
    flags: int = 0,
) -> bytes:
    prp, words = (*prp, 0, 0)[:2], (*words, 0, 0, 0, 0)[:4]
    return layout.COMMAND.pack(opcode, flags, identifier, namespace, *prp, *words)


def _enqueue(made: Peer, ram: mmap.mmap, tails: list[int], queue: int, entry: bytes) -> None:
    """Put an entry into a queue, if there is one, and ring its doorbell."""
    found = NVME.submissions.get(queue)
    if found is not None:
        put(ram, found.address + len(entry) * tails[queue], entry)
        tails[queue] = (tails[queue] + 1) % found.size
    write32(made, NvmeReg.SQTDBL + 8 * queue, tails[queue])


def _submit(made: Peer, choices: Choices, ram: mmap.mmap, tails: list[int]) -> None:
    queue = choices.number(3)
    opcode = choices.pick([*(IO if queue else ADMIN), 0x7F])
    words = [number(choices) | number(choices) << 16 for _ in range(4)]
    if choices.number(4):
        words = [choices.number(64), 0, choices.pick((0, 7, 15, 1023)), choices.number(8)]
    if choices.number(2):  # a list that leads anywhere, or to itself
        put(ram, place(choices), struct.pack("<4Q", *[place(choices) for _ in range(4)]))
    entry = _entry(
        opcode,
        choices.pick((0, 1, 1, 1, 2, 0xFFFF_FFFF)),
        place(choices),
        place(choices),
        words=words,
        identifier=choices.number(4),
        flags=choices.pick((0, 0, 0, 0, 0, 0, 0, 0x40)),
    )
    _enqueue(made, ram, tails, queue, entry)


def _check_nvme() -> None:
    assert len(NVME.submissions) <= QUEUES
    assert len(NVME.completions) <= QUEUES
    assert len(NVME.requests) <= EVENT_REQUESTS
    for each in NVME.completions.values():
        assert len(each.waiting) <= BATCH * QUEUES + 2 * EVENT_REQUESTS
        assert each.used < each.size
    masked = NVME.control[NvmeReg.INTMS]
    up = any(
        each.used and each.vector is not None and not masked >> each.vector & 1
        for each in NVME.completions.values()
    )
    assert NVME.interrupts.intx.level == up


# Virtio.


def any_virtio(data: bytes) -> None:
    """Descriptors, rings, registers and resets in any order."""
    choices = Choices(data)
    with driven(BLK) as (made, ram):
        _begin(made, choices)
        while choices.more:
            _virtio_step(made, choices, ram)
            assert len(BLK._queues) <= 2
            assert BLK.posted.waiting <= 4
    assert not BLK._queues


def _begin(made: Peer, choices: Choices) -> None:
    write(made, 0, BlkReg.DEVICE_STATUS, b"\0")
    for half, features in enumerate((choices.pick((0, 1 << 28, 3 << 28, 1 << 29)), 3)):
        write32(made, BlkReg.DRIVER_FEATURE_SELECT, half)
        write32(made, BlkReg.DRIVER_FEATURE, features)
    write(made, 0, BlkReg.DEVICE_STATUS, b"\x0b")
    for queue in range(2):
        _queue(made, choices, queue, choices.number(4) > 0)
    write(made, 0, BlkReg.DEVICE_STATUS, b"\x0f")


def _queue(made: Peer, choices: Choices, queue: int, right: bool) -> None:
    write(made, 0, BlkReg.QUEUE_SELECT, struct.pack("<H", queue))
    write(made, 0, BlkReg.QUEUE_SIZE, struct.pack("<H", 8 if right else number(choices)))
    for part, register in enumerate((BlkReg.QUEUE_DESC, BlkReg.QUEUE_DRIVER, BlkReg.QUEUE_DEVICE)):
        at = RAM + PAGE * (queue + 3 * part) if right else place(choices)
        write(made, 0, register, struct.pack("<Q", at))
    write(made, 0, BlkReg.QUEUE_ENABLE, struct.pack("<H", 1))


def _virtio_step(made: Peer, choices: Choices, ram: mmap.mmap) -> None:
    kind = choices.number(10)
    if kind < 5:
        _offer(made, choices, ram)
    elif kind == 5:
        width = choices.pick((1, 2, 3, 4, 8, 16))
        write(made, 0, choices.pick([*BlkReg]) + choices.number(2), choices.data(width))
    elif kind == 6:
        _queue(made, choices, choices.pick((0, 1, 2, 0xFFFF)), bool(choices.number(2)))
    elif kind == 7:
        if choices.number(2):
            made.command(Command.DEVICE_RESET)
            write(made, CONFIG, 4, b"\6\0")
        _begin(made, choices)
    elif kind == 8:
        message = struct.pack("<QII", choices.pick([*BlkReg]), 0, choices.pick((1, 2, 4, 8, 64)))
        made.command(Command.REGION_READ, message)
    else:
        turn(made, choices, BLK)


def _offer(made: Peer, choices: Choices, ram: mmap.mmap) -> None:
    """Write descriptors, mostly of a request, and what is available; notify."""
    queue = choices.number(2)
    ring = BLK._queues.get(queue)
    if ring is not None:
        header = choices.pick(PLACES[:-1])
        put(ram, header, struct.pack("<IIQ", choices.pick((0, 1, 4, 8)), 0, number(choices)))
        size = choices.pick((0, 1, 512, 512, 513, PAGE, 1 << 24, 0xFFFF_FFFF))
        chain = [
            (header, 16, 1, 1),
            (place(choices), size, choices.pick((1, 3, 3)), 2),
            (place(choices), 1, 2, 0),
        ]
        if choices.number(4) == 0:
            where, flags = choices.number(3), choices.number(8)
            chain[where] = place(choices), choices.pick((0, 16, 32, 512)), flags, choices.number(10)
        table = place(choices) if choices.number(8) == 0 else ring.descriptors
        for index, descriptor in enumerate(chain):
            put(ram, table + 16 * index, struct.pack("<QIHH", *descriptor))
        available = ring.taken + choices.pick((0, 1, 1, 1, 1, 1, 2, 8, 9, 0xFFFF))
        heads = [choices.pick((0, 0, 0, 0, choices.number(10))) for _ in range(8)]
        put(ram, ring.driver, struct.pack("<HH8H", 0, available & 0xFFFF, *heads))
    write(made, 0, BlkReg.NOTIFY + 4 * choices.number(3), struct.pack("<H", queue))


for _each in any_nvme, any_virtio:
    TARGETS[_each.__name__] = _each
