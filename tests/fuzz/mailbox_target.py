# SPDX-License-Identifier: Apache-2.0
"""The fuzz target of the platform's mailbox: any batches, anywhere, while memory goes away.

All is in one granted page: the batches, the buffers, and a page table that is its own next table at
each level. So a command can change the table that the next one walks, and the batch itself.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from dma_rehearsal.device.layout import CacheCommand, Plat
from dma_rehearsal.device.layout.mailbox import (
    MAIL_CAPACITY,
    MAIL_POSITION_SHIFT,
    MAIL_TAG_BASE,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, Flags
from tests.fuzz.exerciser_target import write
from tests.fuzz.targets import BASE, GUARD, PAGE, TARGETS, Choices, Peer, framed, peer

END = 1 << 64
OWN_BAR = 0xE000_0000
INDEX = 1  # of the table's entry that leads to itself
VIRTUAL = sum(INDEX << shift for shift in (39, 30, 21, 12))
TAGS = (MAIL_TAG_BASE, MAIL_TAG_BASE + 1, MAIL_TAG_BASE + 2, MAIL_TAG_BASE - 1, 0, 0xFFFF_FFFF)
ADDRESSES = (
    BASE,
    BASE + 64,
    BASE + PAGE - 128,
    BASE + PAGE,
    BASE - 1,
    OWN_BAR,
    0,
    END - 64,
    END - 1,
)
LENGTHS = (64, 1, 100, PAGE, 0, PAGE + 1, 2 << 20, (2 << 20) + 1, END - 1)
VIRTUALS = (VIRTUAL, VIRTUAL + 64, VIRTUAL + PAGE, 0, END - 1, 1 << 47)
COUNTS = (1, 2, 8, MAIL_CAPACITY, 0, MAIL_CAPACITY + 1, 0xFFFF_FFFF)
RETAINED = 1 << 20  # far more than one page's buffers take
_MAPS = (MailCommand.GRANT, MailCommand.TRACK, MailCommand.TRACK_UNCACHED)
PLATFORM = Platform(Trace())


def any_mailbox(data: bytes) -> None:
    """Batches of right and wrong records, other registers, resets and unmaps, in any order."""
    choices = Choices(data)
    PLATFORM.device_reset()
    sealed = bool(choices.number(2))
    with peer(PLATFORM, sealed=sealed) as made:
        made.negotiate()
        made.grant()
        _config(made, 0x10, struct.pack("<I", OWN_BAR))
        _config(made, 4, b"\6\0")
        _types(made)
        while choices.more:
            _step(made, choices, sealed)
        assert PLATFORM._tracks.model.retained < RETAINED
        assert PLATFORM.interconnect.lock.acquire(blocking=False), "the lock is held"
        PLATFORM.interconnect.lock.release()


def _types(made: Peer) -> None:
    for register, value in (
        (Plat.PAT_LO, 0x0007_0406),
        (Plat.MTRR_DEF_TYPE_LO, 1 << 11 | 6),
        (Plat.PHYSICAL_BITS, 40),
        (Plat.CACHE_MODE, 1),
        (Plat.CACHE_LINE, 64),
        (Plat.CACHE_CTL, CacheCommand.CONFIGURE),
    ):
        write(made, 0, register, value)


def _config(made: Peer, offset: int, content: bytes) -> None:
    access = struct.pack("<QII", offset, 7, len(content))
    made.command(Command.REGION_WRITE, access + content)


def _step(made: Peer, choices: Choices, sealed: bool) -> None:
    kind = choices.number(12)
    if kind < 6:
        _mail(made, choices, sealed)
    elif kind == 6:
        write(made, 0, choices.pick([*Plat]), choices.pick((0, 1, 2, 3, BASE, 0xFFFF_FFFF)))
    elif kind == 7:
        _config(made, 4, choices.pick((b"\6\0", b"\2\0", b"\0\0")))
    elif kind == 8:
        made.command(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, BASE, PAGE))
        if choices.number(2):
            made.grant()
    elif kind == 9:
        made.command(Command.DEVICE_RESET)
        _config(made, 4, b"\6\0")
        _types(made)
    elif kind == 10:
        os.pwrite(made.memory, choices.data(64), PAGE + choices.number(PAGE - 64))
    else:
        write(made, 0, Plat.CACHE_MODE, choices.number(3))
        write(made, 0, Plat.CACHE_CTL, CacheCommand.CONFIGURE)


def _mail(made: Peer, choices: Choices, sealed: bool) -> None:
    """Lay a batch where there is memory, and read MAIL_GO, which always answers.

    Memory that is not ``sealed`` may be cut before it is read.
    """
    records = [_record(choices) for _ in range(1 + choices.number(8))]
    place = 64 * choices.number(40)
    os.pwrite(made.memory, b"".join(records), PAGE + place)
    os.pwrite(made.memory, struct.pack("<Q", BASE | 7), PAGE + 8 * INDEX)
    address, count = BASE + place, len(records)
    if not choices.number(6):
        address, count = choices.pick(ADDRESSES), choices.pick(COUNTS)
    write(made, 0, Plat.MAIL_ADDRESS_LO, address & 0xFFFF_FFFF)
    write(made, 0, Plat.MAIL_ADDRESS_HI, address >> 32)
    write(made, 0, Plat.MAIL_COUNT, count)
    cut = not sealed and not choices.number(4)
    if cut:
        os.ftruncate(made.memory, PAGE)
    request = framed(1, Command.REGION_READ, struct.pack("<QII", Plat.MAIL_GO, 0, 4))
    (answer,) = [each for each in _answers(made, request) if each]
    (found,) = struct.unpack("<I", answer[-4:])
    if cut:
        os.ftruncate(made.memory, 2 * PAGE)
        os.pwrite(made.memory, GUARD, 2 * PAGE)
    if found == 0xFFFF_FFFF and not PLATFORM.config.claims_memory:
        return  # the BARs do not answer
    position, status = found >> MAIL_POSITION_SHIFT, MailStatus(found & 0xFFFF)
    assert position <= min(count, MAIL_CAPACITY)
    assert position or status in (
        *(MailStatus.OK, MailStatus.BAD_COUNT),
        *(MailStatus.UNREACHABLE, MailStatus.BUS_MASTER_OFF),
    )


def _answers(made: Peer, request: bytes) -> list[bytes]:
    """Return the whole replies to a request, which `Peer.feed` would give as headers."""
    found = []
    for message in made.framer.feed(request, []):
        made.connection.handle(message)
        while made.connection.outbox:
            outgoing = made.connection.outbox.popleft()
            header = outgoing.data[:HEADER_SIZE]
            if struct.unpack_from("<I", header, 8)[0] & Flags.REPLY:
                found.append(outgoing.data[HEADER_SIZE:])
    return found


def _record(choices: Choices) -> bytes:
    """Return a record that mostly makes sense."""
    if not choices.number(8):
        return choices.data(16).ljust(MailRecord.SIZE, choices.data(1))
    command = choices.pick([*MailCommand, *_MAPS, *_MAPS])
    right = bool(choices.number(8))

    def pick(these: tuple[int, ...], good: int) -> int:
        """Pick one of the first, which are right, or of all."""
        return choices.pick(these[:good] if right else these)

    fields: dict[str, Any] = {
        "direction": pick((1, 2, 3, 0, 4), 3),
        "tag": pick(TAGS, 3),
        "length": pick(LENGTHS, 3),
        "call": pick((4, 0, 20, 7), 3),
    }
    if command in _MAPS:
        fields["address"] = pick(ADDRESSES, 2)
    if command is MailCommand.TRACK:
        fields |= {"virtual": pick(VIRTUALS, 2), "root": pick(ADDRESSES, 1)}
        fields["levels"] = pick((4, 5, 0), 1)
    if command in (MailCommand.WITHDRAW, MailCommand.UNTRACK):
        del fields["direction"], fields["length"]
    if command in (MailCommand.ANNOUNCE_BEGIN, MailCommand.ANNOUNCE_END):
        del fields["direction"]
    if command.name.startswith(("SYNC", "ANNOUNCE")):
        fields["offset"] = pick((0, 1, 63, END - 1), 1)
    if command is MailCommand.REPORT:
        fields["kind"] = 1 + choices.number(40)
    values = (0, 0) if right else (choices.pick(TAGS), choices.number(2))
    return MailRecord(command, values=values, **fields).pack()


TARGETS[any_mailbox.__name__] = any_mailbox
