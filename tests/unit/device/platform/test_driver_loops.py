# SPDX-License-Identifier: Apache-2.0
"""The loops of kernel drivers on a board without coherence: right ones, and one mistake in each.

They are those of Linux's Documentation/core-api/dma-api-howto.rst and page_pool.rst, told by the
mailbox as the kernel module tells them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from dma_rehearsal.device.layout import CacheMissingCall, CacheModelMode, CacheReportKind
from dma_rehearsal.device.layout.mailbox import (
    MAIL_FORGOTTEN,
    MAIL_GIVEN_UP,
    MailCommand,
    MailRecord,
)
from tests.unit.device.cache_model.cache_board import DATA, IN, IN_OUT, OUT
from tests.unit.device.platform.mail_board import (
    OTHER,
    TAG,
    MailBoard,
    grant,
    ranged,
    track,
    untrack,
    withdraw,
)
from tests.unit.device.platform.tables import PAGE

LINE, FRAME = 64, 512
FOR_DEVICE, FOR_CPU = MailCommand.SYNC_FOR_DEVICE, MailCommand.SYNC_FOR_CPU
WB_PAGE, WT_PAGE = 0, 1
MODES = [CacheModelMode.STRICT, CacheModelMode.SEEDED]
Kind = CacheReportKind


def board(mode: CacheModelMode = CacheModelMode.STRICT) -> MailBoard:
    made = MailBoard()
    made.enable()
    made.configure(mode)
    return made


def mapped(made: MailBoard, page: int, length: int, direction: int) -> int:
    """Map, as dma_map_single() does; return the bus address."""
    address = DATA + page * PAGE
    made.sent(
        track(page, length, direction),
        ranged(FOR_DEVICE, 0, length, direction),
        grant(address, length, direction),
    )
    return address


def unmapped(made: MailBoard, length: int, *, tag: int = TAG) -> None:
    made.sent(withdraw(tag), ranged(FOR_CPU, 0, length, tag=tag), untrack(tag))


def frame(number: int, length: int = FRAME) -> bytes:
    return bytes((number + each) & 0xFF for each in range(length))


# Receive.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page", [WB_PAGE, WT_PAGE], ids=["WB", "WT"])
def test_a_receive_loop_that_only_looks_needs_no_sync_for_the_device(
    mode: CacheModelMode, page: int
) -> None:
    made = board(mode)
    address = mapped(made, page, FRAME, IN)
    for number in range(5):
        made.writes(address, frame(number))
        made.sent(ranged(FOR_CPU, 0, FRAME, IN))
        assert made.load(address, FRAME) == frame(number)
    unmapped(made, FRAME)
    assert made.load(address, FRAME) == frame(4)
    assert made.kinds() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_receive_loop_that_syncs_what_it_looks_at(mode: CacheModelMode) -> None:
    """The header of each frame, and all of those that are kept: by the unmap."""
    made = board(mode)
    address = mapped(made, WB_PAGE, FRAME, IN)
    for number in range(5):
        made.writes(address, frame(number))
        made.sent(ranged(FOR_CPU, 0, LINE, IN))
        assert made.load(address, LINE) == frame(number)[:LINE]
    unmapped(made, FRAME)
    assert made.load(address, FRAME) == frame(4)
    assert made.kinds() == []


@pytest.mark.parametrize("stored", [0, LINE + 3, FRAME - 1])
def test_a_receive_loop_that_stores_needs_it(stored: int) -> None:
    made = board()
    address = mapped(made, WB_PAGE, FRAME, IN)
    made.writes(address, frame(1))
    made.sent(ranged(FOR_CPU, 0, FRAME, IN))
    made.store(address + stored, b"\xee")
    made.writes(address, frame(2))
    (report,) = made.reports()
    assert report.kind is Kind.WRITE_TO_DIRTY_LINE
    assert (report.tag, report.line) == (TAG, stored // LINE)
    assert report.missing is CacheMissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE


def test_a_receive_loop_that_stores_and_syncs() -> None:
    made = board()
    address = mapped(made, WB_PAGE, FRAME, IN_OUT)
    for number in range(3):
        made.writes(address, frame(number))
        made.sent(ranged(FOR_CPU, 0, FRAME))
        made.store(address + 100, b"\xee")
        made.sent(ranged(FOR_DEVICE, 0, FRAME))
        assert made.reads(address + 100, 1) == b"\xee"
    unmapped(made, FRAME)
    assert made.kinds() == []


def test_a_sync_of_another_part_than_the_store() -> None:
    made = board()
    address = mapped(made, WB_PAGE, FRAME, IN)
    made.writes(address, frame(1))
    made.sent(ranged(FOR_CPU, 0, FRAME, IN))
    made.store(address + 2 * LINE, b"\xee")
    made.sent(ranged(FOR_DEVICE, 0, LINE, IN))
    made.writes(address, frame(2))
    assert [(each.kind, each.line) for each in made.reports()] == [(Kind.WRITE_TO_DIRTY_LINE, 2)]


def test_a_store_to_what_the_device_has() -> None:
    made = board()
    address = mapped(made, WB_PAGE, FRAME, IN)
    made.store(address + 5, b"\xee")
    unmapped(made, FRAME)
    assert Kind.STORED_WHILE_DEVICE_OWNS in made.kinds()


def test_memory_that_is_mapped_again_starts_anew() -> None:
    made = board()
    for number, direction in enumerate((IN, OUT, IN, IN_OUT)):
        address = DATA
        made.store(address, frame(50 + number))
        mapped(made, WB_PAGE, FRAME, direction)
        if direction & OUT:
            assert made.reads(address, FRAME) == frame(50 + number)
        if direction & IN:
            made.writes(address, frame(number))
        unmapped(made, FRAME)
        due = frame(number) if direction & IN else frame(50 + number)
        assert made.load(address, FRAME) == due
    assert made.kinds() == []


# Send.


@pytest.mark.parametrize("mode", MODES)
def test_a_send_loop(mode: CacheModelMode) -> None:
    made = board(mode)
    made.store(DATA, frame(0))
    address = mapped(made, WB_PAGE, FRAME, OUT)
    for number in range(1, 4):
        assert made.reads(address, FRAME) == frame(number - 1)
        made.sent(ranged(FOR_CPU, 0, FRAME, OUT))
        made.store(address, frame(number))
        made.sent(ranged(FOR_DEVICE, 0, FRAME, OUT))
    unmapped(made, FRAME)
    assert made.kinds() == []


@pytest.mark.parametrize("read", [True, False])
def test_a_send_whose_map_skipped_the_sync(read: bool) -> None:
    """DMA_ATTR_SKIP_CPU_SYNC at the map, and no sync later: what was stored before is not sent."""
    made = board()
    made.store(DATA, frame(1))
    made.sent(track(WB_PAGE, FRAME, OUT), grant(DATA, FRAME, OUT))
    if read:
        assert made.reads(DATA, FRAME) != frame(1)
    unmapped(made, FRAME)
    assert made.kinds() == ([Kind.RELEASED_DIRTY] if read else [])


def test_a_send_whose_map_skipped_the_sync_that_comes_later() -> None:
    made = board()
    made.store(DATA, frame(1))
    made.sent(track(WB_PAGE, FRAME, OUT), grant(DATA, FRAME, OUT))
    made.sent(ranged(FOR_DEVICE, 0, FRAME, OUT))
    assert made.reads(DATA, FRAME) == frame(1)
    unmapped(made, FRAME)
    assert made.kinds() == []


# A page pool: mapped once, without a sync, and given back by syncs of what the device may write.


def pooled(made: MailBoard) -> int:
    made.sent(track(WB_PAGE, PAGE, IN), grant(DATA, PAGE, IN))
    return DATA


@pytest.mark.parametrize("mode", MODES)
def test_a_page_pool(mode: CacheModelMode) -> None:
    """Two frames a page; the stack changes what it was given, and drops every other frame."""
    made = board(mode)
    address = pooled(made)
    for number in range(4):
        made.sent(ranged(FOR_DEVICE, 0, PAGE // 2, IN), ranged(FOR_DEVICE, PAGE // 2, FRAME, IN))
        for part in (0, PAGE // 2):
            made.writes(address + part, frame(number))
            if number % 2:
                continue
            made.sent(ranged(FOR_CPU, part, FRAME, IN))
            assert made.load(address + part, FRAME) == frame(number)
            made.store(address + part, b"\xee" * 40)
    made.sent(withdraw(), untrack(values=(MAIL_GIVEN_UP, 0)))
    assert made.kinds() == []


def test_a_page_pool_that_forgets_the_sync_for_the_device() -> None:
    made = board()
    address = pooled(made)
    made.sent(ranged(FOR_DEVICE, 0, FRAME, IN))
    made.writes(address, frame(1))
    made.sent(ranged(FOR_CPU, 0, FRAME, IN))
    made.store(address, b"\xee" * 40)
    made.writes(address, frame(2))
    assert made.kinds() == [Kind.WRITE_TO_DIRTY_LINE]


def test_a_page_pool_that_forgets_its_first_sync() -> None:
    made = board()
    address = pooled(made)
    made.store(address, frame(9))
    made.writes(address, frame(1))
    assert Kind.WRITE_TO_DIRTY_LINE in made.kinds()


@pytest.mark.parametrize("given_up", [False, True])
def test_what_was_received_and_never_synced(given_up: bool) -> None:
    """Given up, it is not reported; and the CPU has not got it in either case but by the end."""
    made = board()
    address = pooled(made)
    made.sent(ranged(FOR_DEVICE, 0, FRAME, IN))
    before = made.load(address, FRAME)
    made.writes(address, frame(1))
    made.sent(withdraw(), untrack(values=(int(given_up) * MAIL_GIVEN_UP, 0)))
    assert made.kinds() == ([] if given_up else [Kind.RELEASED_UNREAD])
    assert made.load(address, FRAME) == (before if given_up else frame(1))


@pytest.mark.parametrize("direction", [IN, OUT, IN_OUT])
def test_of_a_leaked_buffer_nothing_is_said(direction: int) -> None:
    """The driver has freed it long ago, and its new owner stores there."""
    made = board()
    address = mapped(made, WB_PAGE, FRAME, direction)
    if direction & OUT:
        made.store(address, frame(3))
        made.reads(address, FRAME)
    if direction & IN:
        made.writes(address, frame(1))
    made.kinds()
    made.store(address, frame(9))
    made.sent(withdraw(), untrack(values=(MAIL_FORGOTTEN, 0)))
    assert made.kinds() == []
    assert made.load(address, FRAME) == frame(9)


def test_a_store_that_the_device_never_got_is_reported_though_given_up() -> None:
    made = board()
    address = mapped(made, WB_PAGE, FRAME, OUT)
    made.sent(ranged(FOR_CPU, 0, FRAME))
    made.store(address, frame(3))
    made.reads(address, FRAME)
    made.sent(withdraw(), untrack(values=(MAIL_GIVEN_UP, 0)))
    assert made.kinds() == [Kind.RELEASED_DIRTY]


@pytest.mark.parametrize("given_up", [False, True])
def test_a_store_behind_a_frame_that_was_taken(given_up: bool) -> None:
    """The stack pads a short frame while its page is mapped; the device has no use of the bytes."""
    made = board()
    address = pooled(made)
    made.sent(ranged(FOR_DEVICE, 0, PAGE // 2, IN))
    made.writes(address, frame(1))
    made.sent(ranged(FOR_CPU, 0, FRAME, IN))
    made.store(address + PAGE // 4, b"\xee" * 64)
    made.sent(withdraw(), untrack(values=(int(given_up) * MAIL_GIVEN_UP, 0)))
    assert made.kinds() == ([] if given_up else [Kind.RELEASED_DIRTY])


# Bounce buffers: the kernel copies between a slot and the driver's memory.

ORIGINAL = 4


def copied(made: MailBoard, to_slot: bool, length: int = FRAME) -> None:
    """Copy as swiotlb does, announced at the side that is stored to."""
    slot, original = DATA, DATA + ORIGINAL * PAGE
    target, source, tag = (slot, original, TAG) if to_slot else (original, slot, OTHER)
    made.sent(ranged(MailCommand.ANNOUNCE_BEGIN, 0, length, tag=tag))
    made.store(target, made.load(source, length))
    made.sent(ranged(MailCommand.ANNOUNCE_END, 0, length, tag=tag))


def both(command: MailCommand) -> tuple[MailRecord, MailRecord]:
    own = ranged(command, 0, FRAME)
    return replace(own, tag=OTHER), own


def bounced(made: MailBoard, direction: int) -> tuple[int, int]:
    """Map memory that the kernel bounces; return where the slot and the original are."""
    slot, original = DATA, DATA + ORIGINAL * PAGE
    made.store(slot, made.load(original, FRAME))
    made.sent(
        track(WB_PAGE, FRAME, direction),
        track(ORIGINAL, FRAME, direction, OTHER, values=(TAG, 0)),
        *both(FOR_DEVICE),
        grant(slot, FRAME, direction),
    )
    return slot, original


def test_a_bounced_send_and_receive() -> None:
    made = board()
    made.store(DATA + ORIGINAL * PAGE, frame(1))
    slot, original = bounced(made, IN_OUT)
    for number in range(2, 5):
        assert made.reads(slot, FRAME) == frame(2 * number - 3)
        made.writes(slot, frame(2 * number))
        made.sent(*both(FOR_CPU))
        copied(made, to_slot=False)
        assert made.load(original, FRAME) == frame(2 * number)
        made.store(original, frame(2 * number - 1))
        made.sent(replace(ranged(FOR_DEVICE, 0, FRAME), tag=OTHER))
        copied(made, to_slot=True)
        made.sent(ranged(FOR_DEVICE, 0, FRAME))
    made.sent(withdraw(), *both(FOR_CPU))
    copied(made, to_slot=False)
    made.sent(untrack(OTHER), untrack())
    assert made.kinds() == []


def test_a_bounced_send_without_its_sync() -> None:
    """The device gets the old bytes, and the release says whose store it missed."""
    made = board()
    made.store(DATA + ORIGINAL * PAGE, frame(1))
    slot, original = bounced(made, OUT)
    made.store(original, frame(2))
    assert made.reads(slot, FRAME) == frame(1)
    made.sent(withdraw(), *both(FOR_CPU), untrack(OTHER), untrack())
    reports = made.reports()
    assert [(each.kind, each.tag) for each in reports] == [(Kind.STORED_WHILE_DEVICE_OWNS, OTHER)]


def test_a_copy_that_nobody_announced_looks_like_a_store() -> None:
    made = board()
    slot, _ = bounced(made, IN_OUT)
    made.store(slot, frame(7))
    made.sent(*both(FOR_CPU), untrack(OTHER), untrack(), withdraw())
    assert Kind.STORED_WHILE_DEVICE_OWNS in made.kinds()
