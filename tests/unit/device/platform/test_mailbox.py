# SPDX-License-Identifier: Apache-2.0
"""The mailbox by its registers: what a batch does, what it refuses, and what the trace has."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.layout import (
    FUNCTION_NAMED,
    GRANT_CAPACITY,
    CacheCommand,
    CacheModelMode,
    CacheReportKind,
    CacheStatus,
    DmaReason,
    Plat,
    PlatformFeature,
    ProtectionCommand,
)
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.device.layout.mailbox import (
    MAIL_CAPACITY,
    MAIL_OWNER_BASE,
    MAIL_TAG_BASE,
    MAIL_TRACK_MAX,
    DmaCall,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.device.platform import mailbox
from dma_rehearsal.device.platform.protection import Protection
from tests.generated import examples
from tests.unit.device.cache_model.cache_board import DATA, IN, IN_OUT, OUT
from tests.unit.device.fakes import BASE, SIZE, read32, write32
from tests.unit.device.platform.mail_board import (
    BATCH,
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

LINE = 64
OLD, NEW = b"\x11" * LINE, b"\x22" * LINE
OK = (0, MailStatus.OK)
END = 1 << 64
CALLERS = (0xFFFF_FFFF_C000_1000, 0xFFFF_FFFF_C000_2000, 0, 0)
FOR_DEVICE, FOR_CPU = MailCommand.SYNC_FOR_DEVICE, MailCommand.SYNC_FOR_CPU


@pytest.fixture
def board() -> MailBoard:
    """A board with protection and the cache model on."""
    made = MailBoard()
    made.enable()
    assert made.configure() is CacheStatus.OK
    made.trace.events.clear()
    return made


@pytest.fixture
def plain() -> MailBoard:
    """A board with protection on, and the cache model off."""
    made = MailBoard()
    made.enable()
    made.trace.events.clear()
    return made


def grants(board: MailBoard) -> int:
    return read32(board.platform, 0, Plat.GRANT_COUNT)


def test_discovery(plain: MailBoard) -> None:
    assert PlatformFeature.MAILBOX in PlatformFeature(read32(plain.platform, 0, Plat.FEATURES))
    assert read32(plain.platform, 0, Plat.MAIL_CAPACITY) == MAIL_CAPACITY


# What a batch does.


def test_a_grant_for_one_function(plain: MailBoard) -> None:
    """A mapping opens memory to the function whose struct device it was made with."""
    front, back = 0x20, 0x23
    plain.sent(replace(grant(DATA, LINE, OUT), values=(0, FUNCTION_NAMED | front)))
    assert plain.trace.of("driver map")[0]["function"] == "00:04.0"
    plain.exerciser.requester_id = back
    assert plain.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_FUNCTION
    plain.exerciser.requester_id = front
    assert plain.reads(DATA, LINE) == bytes(LINE)
    plain.sent(withdraw())
    assert plain.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_OUTSIDE


def test_a_grant_opens_memory_until_it_is_withdrawn(plain: MailBoard) -> None:
    assert plain.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_OUTSIDE
    plain.sent(grant(DATA, LINE, OUT))
    assert plain.reads(DATA, LINE) == bytes(LINE)
    assert plain.refused(DATA, LINE, write=True) is DmaReason.PROTECTION_DIRECTION
    plain.sent(withdraw())
    assert plain.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_OUTSIDE


def test_a_tag_has_several_grants_which_go_together(plain: MailBoard) -> None:
    plain.sent(
        grant(DATA, LINE, OUT), grant(DATA + PAGE, LINE, IN), grant(DATA + LINE, LINE, IN, OTHER)
    )
    assert grants(plain) == 3
    plain.sent(withdraw())
    assert grants(plain) == 1
    plain.writes(DATA + LINE, NEW)


def test_a_write_of_mail_go_does_nothing(plain: MailBoard) -> None:
    plain.put(grant(DATA, LINE, OUT))
    write32(plain.platform, 0, Plat.MAIL_GO, 1)
    assert grants(plain) == 0


def test_a_batch_is_done_again_by_each_read(plain: MailBoard) -> None:
    plain.put(grant(DATA, LINE, OUT))
    assert plain.go() == plain.go() == OK
    assert grants(plain) == 2


def test_a_mapping_with_the_cache_model(board: MailBoard) -> None:
    """Map, device reads, sync back and forth, unmap: by three batches, without a report."""
    board.store(DATA, OLD)
    board.sent(track(0, LINE, OUT), ranged(FOR_DEVICE, 0, LINE, OUT), grant(DATA, LINE, OUT))
    assert board.reads(DATA, LINE) == OLD
    board.sent(ranged(FOR_CPU, 0, LINE))
    board.store(DATA, NEW)
    board.sent(ranged(FOR_DEVICE, 0, LINE))
    assert board.reads(DATA, LINE) == NEW
    board.sent(ranged(FOR_CPU, 0, LINE), untrack(), withdraw())
    assert board.kinds() == []
    assert board.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_OUTSIDE


def test_a_missing_sync_is_reported_with_the_mappings_tag(board: MailBoard) -> None:
    board.sent(track(0, LINE, OUT), ranged(FOR_DEVICE, 0, LINE), grant(DATA, LINE, OUT))
    board.store(DATA, NEW)
    assert board.reads(DATA, LINE) == bytes(LINE)
    board.sent(ranged(FOR_CPU, 0, LINE), untrack(), withdraw())
    reports = board.reports()
    assert CacheReportKind.STORED_WHILE_DEVICE_OWNS in [each.kind for each in reports]
    assert {each.tag for each in reports} == {TAG}


def test_uncached_memory_needs_neither_walk_nor_sync(board: MailBoard) -> None:
    coherent = MailRecord(
        MailCommand.TRACK_UNCACHED, IN_OUT, TAG, address=DATA, length=2 * PAGE, call=1
    )
    board.sent(coherent, grant(DATA, 2 * PAGE, IN_OUT))
    board.store(DATA, NEW)
    assert board.reads(DATA, LINE) == NEW
    board.writes(DATA + PAGE, OLD)
    assert board.load(DATA + PAGE, LINE) == OLD
    board.sent(untrack(), withdraw())
    assert board.kinds() == []


def test_a_bounced_mapping_tracks_the_slot_and_the_original(board: MailBoard) -> None:
    """The kernel's copies are announced, so that they are no stores of the driver."""
    slot, original = 0, 4
    slot_at, original_at = DATA, DATA + 4 * PAGE
    board.store(original_at, OLD)
    begin, end = MailCommand.ANNOUNCE_BEGIN, MailCommand.ANNOUNCE_END
    board.store(slot_at, OLD)  # the kernel's copy, before the slot is tracked
    board.sent(
        track(slot, LINE, IN_OUT),
        ranged(FOR_DEVICE, 0, LINE),
        track(original, LINE, IN_OUT, OTHER, values=(TAG, 0)),
        ranged(FOR_DEVICE, 0, LINE, tag=OTHER),
        grant(slot_at, LINE, IN_OUT),
    )
    board.writes(slot_at, NEW)
    board.sent(
        ranged(FOR_CPU, 0, LINE),
        ranged(FOR_CPU, 0, LINE, tag=OTHER),
        ranged(begin, 0, LINE, tag=OTHER),
    )
    board.store(original_at, board.load(slot_at, LINE))
    board.sent(ranged(end, 0, LINE, tag=OTHER), untrack(OTHER), untrack(), withdraw())
    assert board.load(original_at, LINE) == NEW
    assert board.kinds() == []


def test_a_store_to_the_original_of_a_bounced_mapping_is_reported(board: MailBoard) -> None:
    board.sent(
        track(0, LINE, OUT),
        ranged(FOR_DEVICE, 0, LINE),
        track(4, LINE, OUT, OTHER, values=(TAG, 0)),
        ranged(FOR_DEVICE, 0, LINE, tag=OTHER),
    )
    board.store(DATA + 4 * PAGE, NEW)
    board.sent(ranged(FOR_CPU, 0, LINE, tag=OTHER), untrack(OTHER), untrack())
    assert CacheReportKind.STORED_WHILE_DEVICE_OWNS in board.kinds()


def test_all_is_one_step_for_other_functions(
    plain: MailBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    unit = Protection.grant

    def watched(self: Protection, *arguments: int) -> object:
        held.append(plain.platform.interconnect.lock._is_owned())  # type: ignore[attr-defined]
        return unit(self, *arguments)

    monkeypatch.setattr(Protection, "grant", watched)
    assert isinstance(plain.platform.interconnect, Interconnect)
    plain.sent(grant(DATA, LINE, OUT), grant(DATA, LINE, IN))
    assert held == [True, True]


def test_a_batch_is_copied_once(plain: MailBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another CPU rewrites it while it is carried out."""
    unit = Protection.grant

    def rewritten(self: Protection, *arguments: int) -> object:
        plain.store(BATCH, grant(DATA, PAGE, IN_OUT, OTHER).pack() * 2)
        return unit(self, *arguments)

    monkeypatch.setattr(Protection, "grant", rewritten)
    plain.sent(grant(DATA, LINE, OUT), grant(DATA + LINE, LINE, OUT))
    owners = {each.owner for each in plain.platform._unit._grants.values()}
    assert owners == {MAIL_OWNER_BASE | TAG}
    assert plain.reads(DATA, 2 * LINE) == bytes(2 * LINE)


def test_a_batch_in_the_platforms_own_registers(plain: MailBoard) -> None:
    plain.platform.region_write(7, 0x10, (0xE000_0000).to_bytes(4, "little"))
    plain.aim(0xE000_0000, 1)
    assert plain.go() == (0, MailStatus.UNREACHABLE)


# What the trace has.


def test_the_trace_has_the_life_of_a_mapping(board: MailBoard) -> None:
    board.sent(
        track(0, LINE, OUT, call=DmaCall.MAP_PAGE, callers=CALLERS),
        ranged(FOR_DEVICE, 0, LINE, call=DmaCall.MAP_PAGE),
        grant(DATA, LINE, OUT, call=DmaCall.MAP_PAGE, callers=CALLERS),
    )
    names = ("driver map", "driver sync", "driver unmap", "grant", "withdraw owner")
    owner = hex(MAIL_OWNER_BASE | TAG)
    callers = ["0xffffffffc0001000", "0xffffffffc0002000"]
    mapped, granted = board.trace.of(*names)
    assert mapped == {
        "device": "platform",
        "event": "driver map",
        "tag": hex(TAG),
        "of": None,
        "call": "MAP_PAGE",
        "address": hex(DATA),
        "length": LINE,
        "direction": "OUT",
        "callers": callers,
    }
    assert granted["event"] == "grant"
    assert granted["owner"] == owner
    board.sent(
        ranged(FOR_CPU, 8, 16, OUT, call=DmaCall.SYNC_SINGLE_FOR_CPU, callers=CALLERS),
    )
    (sync,) = board.trace.of(*names)
    assert sync == {
        "device": "platform",
        "event": "driver sync",
        "tag": hex(TAG),
        "call": "SYNC_SINGLE_FOR_CPU",
        "to": "CPU",
        "offset": 8,
        "length": 16,
        "direction": "OUT",
        "callers": callers,
    }
    board.sent(withdraw(call=DmaCall.UNMAP_PAGE), untrack(call=DmaCall.UNMAP_PAGE, callers=CALLERS))
    withdrawn, unmapped = board.trace.of(*names)
    assert (withdrawn["event"], withdrawn["owner"]) == ("withdraw owner", owner)
    assert unmapped == {
        "device": "platform",
        "event": "driver unmap",
        "tag": hex(TAG),
        "call": "UNMAP_PAGE",
        "callers": callers,
    }


def test_a_mapping_with_a_grant_alone_is_told_with_it(plain: MailBoard) -> None:
    plain.sent(grant(DATA, LINE, IN, call=DmaCall.MAP_SG), withdraw(call=DmaCall.UNMAP_SG))
    mapped, unmapped = plain.trace.of("driver map", "driver unmap", "grant", "withdraw owner")
    assert (mapped["event"], mapped["id"], mapped["direction"]) == ("driver map", 1, "IN")
    assert mapped["owner"] == unmapped["owner"] == hex(MAIL_OWNER_BASE | TAG)
    assert (unmapped["event"], unmapped["count"]) == ("driver unmap", 1)


def test_a_part_says_of_which_mapping(board: MailBoard) -> None:
    board.sent(track(0, LINE, IN), track(1, LINE, IN, OTHER, values=(TAG, 0)))
    whole, part = board.trace.of("driver map")
    assert (whole["of"], part["of"]) == (None, hex(TAG))


def test_a_report_is_in_the_trace_as_the_guest_told_it(plain: MailBoard) -> None:
    plain.sent(
        MailRecord(
            *(MailCommand.REPORT, IN, TAG, DmaCall.UNMAP_PAGE, DATA, 100, 4),
            kind=DriverReportKind.UNMAP_SIZE,
            callers=CALLERS,
            values=(100, 64),
        ),
        MailRecord(MailCommand.REPORT, kind=DriverReportKind.MASK_NEVER_SET),
    )
    size, mask = plain.trace.of("driver report")
    assert size == {
        "device": "platform",
        "event": "driver report",
        "kind": "UNMAP_SIZE",
        "call": "UNMAP_PAGE",
        "tag": hex(TAG),
        "address": hex(DATA),
        "length": 100,
        "offset": 4,
        "direction": "IN",
        "values": [100, 64],
        "callers": ["0xffffffffc0001000", "0xffffffffc0002000"],
        "told_by": "guest",
    }
    assert (mask["kind"], mask["tag"], mask["callers"]) == ("MASK_NEVER_SET", None, [])


def test_a_batch_that_fails_is_in_the_trace(plain: MailBoard) -> None:
    assert plain.send(grant(DATA, LINE, OUT), MailRecord(99, tag=TAG))[0] == 2
    (failed,) = plain.trace.of("mail failed")
    assert (failed["position"], failed["command"], failed["status"]) == (1, 99, "BAD_COMMAND")


# What it refuses.


def test_the_first_that_fails_ends_the_batch(plain: MailBoard) -> None:
    batch = (grant(DATA, LINE, OUT), withdraw(OTHER), grant(DATA, LINE, IN))
    assert plain.send(*batch) == (2, MailStatus.NO_SUCH_TAG)
    assert grants(plain) == 1


GRANT = grant(DATA, LINE, OUT)
TRACK = track(0, LINE, IN)
SYNC = ranged(FOR_CPU, 0, LINE)
REPORT = MailRecord(MailCommand.REPORT, kind=DriverReportKind.UNMAP_SIZE)


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (MailRecord(0), MailStatus.BAD_COMMAND),
        (MailRecord(99, tag=TAG), MailStatus.BAD_COMMAND),
        (MailRecord(2**32 - 1, tag=TAG), MailStatus.BAD_COMMAND),
        (replace(GRANT, reserved=(0, 1)), MailStatus.BAD_FIELD),
        (replace(GRANT, virtual=1), MailStatus.BAD_FIELD),
        (replace(withdraw(), values=(0, 1)), MailStatus.BAD_FIELD),
        (replace(SYNC, root=PAGE), MailStatus.BAD_FIELD),
        (replace(REPORT, levels=4), MailStatus.BAD_FIELD),
        (replace(GRANT, tag=MAIL_TAG_BASE - 1), MailStatus.BAD_TAG),
        (replace(GRANT, tag=0), MailStatus.BAD_TAG),
        (replace(REPORT, tag=1), MailStatus.BAD_TAG),
        (replace(GRANT, values=(OTHER, 0)), MailStatus.BAD_TAG),
        (replace(GRANT, values=(TAG, 0)), MailStatus.BAD_TAG),
        (replace(GRANT, values=(0, 1)), MailStatus.BAD_FUNCTION),
        (replace(GRANT, values=(0, 2 * FUNCTION_NAMED)), MailStatus.BAD_FUNCTION),
        (replace(GRANT, values=(0, 1 << 32 | FUNCTION_NAMED)), MailStatus.BAD_FUNCTION),
        (replace(GRANT, values=(0, FUNCTION_NAMED | 0xFFFF)), MailStatus.OK),
        (replace(TRACK, values=(0, FUNCTION_NAMED)), MailStatus.BAD_TAG),
        (replace(GRANT, values=(END - 1, 0)), MailStatus.BAD_TAG),
        (replace(GRANT, call=7), MailStatus.BAD_CALL),
        (replace(REPORT, kind=0), MailStatus.BAD_KIND),
        (replace(REPORT, kind=2**32 - 1), MailStatus.BAD_KIND),
        (replace(GRANT, direction=0), MailStatus.BAD_DIRECTION),
        (replace(GRANT, direction=4), MailStatus.BAD_DIRECTION),
        (replace(SYNC, direction=4), MailStatus.BAD_DIRECTION),
        (replace(REPORT, direction=4), MailStatus.BAD_DIRECTION),
        (replace(GRANT, length=0), MailStatus.BAD_RANGE),
        (grant(END - LINE, LINE + 1, OUT), MailStatus.BAD_RANGE),
        (grant(1, END - 1, OUT), MailStatus.OK),
        (grant(END - LINE, LINE, OUT), MailStatus.OK),
        (replace(TRACK, length=0), MailStatus.BAD_RANGE),
        (replace(TRACK, length=MAIL_TRACK_MAX + 1), MailStatus.TOO_LONG),
        (replace(TRACK, length=END - 1, address=0), MailStatus.TOO_LONG),
        (replace(TRACK, root=0), MailStatus.CACHE_WALK_TABLE_UNREACHABLE),
        (replace(TRACK, root=END - PAGE), MailStatus.CACHE_WALK_TABLE_UNREACHABLE),
        (replace(TRACK, levels=3), MailStatus.CACHE_WALK_BAD_ARGUMENT),
        (replace(TRACK, virtual=END - 1), MailStatus.CACHE_WALK_BAD_ARGUMENT),
        (replace(TRACK, virtual=0), MailStatus.CACHE_WALK_NOT_PRESENT),
        (SYNC, MailStatus.NO_SUCH_TAG),
        (ranged(MailCommand.ANNOUNCE_END, 0, LINE), MailStatus.NO_SUCH_TAG),
        (untrack(), MailStatus.NO_SUCH_TAG),
        (untrack(values=(3, 0)), MailStatus.BAD_FIELD),
        (untrack(values=(1, 1)), MailStatus.BAD_FIELD),
        (withdraw(), MailStatus.NO_SUCH_TAG),
        (replace(REPORT, kind=DriverReportKind.UNMAP_SIZE), MailStatus.OK),
    ],
)
def test_each_field_is_checked(board: MailBoard, record: MailRecord, status: MailStatus) -> None:
    assert board.send(record) == (int(status is not MailStatus.OK), status)
    assert grants(board) == (status is MailStatus.OK and record.command == MailCommand.GRANT)


def test_what_the_cache_model_refuses(board: MailBoard) -> None:
    board.sent(TRACK)
    assert board.send(TRACK) == (1, MailStatus.TAG_IN_USE)
    uncached = MailRecord(MailCommand.TRACK_UNCACHED, IN, OTHER, address=DATA, length=LINE)
    assert board.send(uncached) == (1, MailStatus.CACHE_BUSY)
    assert board.send(ranged(FOR_CPU, 1, LINE)) == (1, MailStatus.CACHE_BAD_RANGE)
    assert board.send(ranged(FOR_CPU, END - 1, END - 1)) == (1, MailStatus.CACHE_BAD_RANGE)
    end = ranged(MailCommand.ANNOUNCE_END, 0, LINE)
    assert board.send(end) == (1, MailStatus.CACHE_BAD_ANNOUNCEMENT)
    far = replace(uncached, address=BASE + SIZE)
    assert board.send(far) == (1, MailStatus.CACHE_MEMORY_GONE)
    board.client.reaches = False
    assert board.send(SYNC) == (1, MailStatus.CACHE_MEMORY_GONE)


def test_tracks_while_the_cache_model_is_off(plain: MailBoard) -> None:
    assert plain.send(TRACK) == (1, MailStatus.CACHE_OFF)


def test_a_full_protection_unit(plain: MailBoard) -> None:
    unit = plain.platform._unit
    for _ in range(GRANT_CAPACITY - 1):
        unit.grant(DATA, LINE, OUT, 1)
    assert plain.send(GRANT, GRANT) == (2, MailStatus.PROTECTION_FULL)


def test_the_work_of_a_batch_has_a_budget(
    board: MailBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is sent again, and the first of a batch is always done."""
    monkeypatch.setattr(mailbox, "MAIL_BUDGET", 2 * PAGE)
    sync = ranged(FOR_DEVICE, 0, PAGE, tag=OTHER)
    board.sent(track(0, PAGE, IN, OTHER))
    assert board.send(sync, sync, sync) == (3, MailStatus.BUDGET)
    assert board.trace.of("mail failed") == []
    small = ranged(FOR_DEVICE, 0, LINE, tag=OTHER)
    board.sent(*[small] * 30)
    board.sent(untrack(OTHER))
    board.sent(track(0, 4 * PAGE, IN, OTHER))
    assert board.send(untrack(OTHER), GRANT) == (2, MailStatus.BUDGET)
    assert board.send(GRANT) == OK


def test_withdrawals_have_a_budget(plain: MailBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "MAIL_BUDGET", 10 * 128)
    for tag in (TAG, OTHER):
        plain.sent(*[grant(DATA, LINE, OUT, tag)] * 10)
    assert plain.send(withdraw(), withdraw(OTHER)) == (2, MailStatus.BUDGET)
    assert grants(plain) == 10


@pytest.mark.parametrize("count", [0, MAIL_CAPACITY + 1, 2**16, 2**32 - 1])
def test_a_count_that_no_batch_may_have(plain: MailBoard, count: int) -> None:
    plain.put(GRANT)
    plain.aim(BATCH, count)
    assert plain.go() == (0, MailStatus.BAD_COUNT)
    assert grants(plain) == 0


@pytest.mark.parametrize(
    "address", [0, BASE - 1, BASE + SIZE - 127, BASE + SIZE, END - 128, END - 1]
)
def test_a_batch_that_is_not_in_memory(plain: MailBoard, address: int) -> None:
    plain.aim(address, 1)
    assert plain.go() == (0, MailStatus.UNREACHABLE)


def test_a_full_batch(plain: MailBoard) -> None:
    plain.sent(*[GRANT] * MAIL_CAPACITY)
    assert grants(plain) == MAIL_CAPACITY


def test_the_platforms_own_bus_mastering_is_needed(plain: MailBoard) -> None:
    plain.put(GRANT)
    plain.platform.region_write(7, 4, b"\x02\x00")
    assert plain.go() == (0, MailStatus.BUS_MASTER_OFF)
    assert grants(plain) == 0


def test_the_two_ways_to_the_cache_model_keep_their_tags_apart(board: MailBoard) -> None:
    board.sent(TRACK)
    for command in (CacheCommand.UNTRACK, CacheCommand.CLEAN, CacheCommand.SYNC_FOR_CPU):
        assert board.command(command, TAG, length=LINE) is CacheStatus.BAD_BUFFER
    assert board.track(tag=OTHER) is CacheStatus.BAD_BUFFER
    assert board.track(tag=MAIL_TAG_BASE - 1) is CacheStatus.OK
    board.sent(untrack())


def test_a_reset_drops_all(board: MailBoard) -> None:
    board.sent(TRACK, GRANT)
    board.platform.device_reset()
    board.platform.region_write(7, 4, b"\x06\x00")
    assert grants(board) == 0
    assert board.go() == (0, MailStatus.BAD_COUNT)
    assert board.send(withdraw()) == (1, MailStatus.NO_SUCH_TAG)
    assert board.send(untrack()) == (1, MailStatus.NO_SUCH_TAG)


def test_a_new_configuration_drops_tracks_and_leaves_grants(board: MailBoard) -> None:
    board.sent(TRACK, GRANT)
    board.configure(CacheModelMode.OFF)
    assert board.send(untrack()) == (1, MailStatus.NO_SUCH_TAG)
    board.sent(withdraw())


def test_registers_can_withdraw_what_the_mailbox_granted(plain: MailBoard) -> None:
    """Whoever cleans up after a module that is gone."""
    plain.sent(GRANT)
    plain.set64(Plat.GRANT_OWNER_LO, MAIL_OWNER_BASE | TAG)
    write32(plain.platform, 0, Plat.PROTECTION_CTL, ProtectionCommand.WITHDRAW_OWNER)
    assert grants(plain) == 0


# Anything at all.

ODD = st.sampled_from([0, 1, LINE, PAGE, BASE, DATA, BATCH, MAIL_TRACK_MAX, END - PAGE, END - 1])
TAGS = st.sampled_from([0, 1, MAIL_TAG_BASE - 1, MAIL_TAG_BASE, TAG, OTHER, 2**32 - 1])


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw a record: a right one with some fields changed, or any bytes."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=MailRecord.SIZE, max_size=MailRecord.SIZE))
    direction = draw(st.sampled_from([IN, OUT, IN_OUT]))
    length = draw(st.sampled_from([1, LINE, PAGE, 3 * PAGE]))
    tag = draw(st.sampled_from([TAG, OTHER]))
    record = draw(
        st.sampled_from(
            [
                grant(DATA, length, direction, tag),
                withdraw(tag),
                track(draw(st.integers(0, 4)), length, direction, tag),
                MailRecord(MailCommand.TRACK_UNCACHED, direction, tag, address=DATA, length=length),
                untrack(tag),
                ranged(FOR_DEVICE, 0, length, direction, tag),
                ranged(FOR_CPU, 0, length, direction, tag),
                ranged(MailCommand.ANNOUNCE_BEGIN, 0, length, tag=tag),
                ranged(MailCommand.ANNOUNCE_END, 0, length, tag=tag),
                MailRecord(MailCommand.REPORT, kind=draw(st.integers(0, 30))),
            ]
        )
    )
    for name in draw(st.sets(st.sampled_from([each.name for each in fields(record)]), max_size=2)):
        value: Any = draw(ODD)
        if name in ("command", "direction", "call", "levels", "kind"):
            value = draw(st.integers(0, 40))
        elif name == "tag":
            value = draw(TAGS)
        elif name in ("callers", "values", "reserved"):
            value = tuple(draw(ODD | TAGS) for _ in getattr(record, name))
        record = replace(record, **{name: value})
    return record.pack()


@settings(max_examples=examples(400))
@given(batches=st.lists(st.lists(records(), min_size=1, max_size=8), max_size=8))
def test_any_batch_has_a_status_and_leaves_a_sound_board(batches: list[list[bytes]]) -> None:
    board = MailBoard()
    board.enable()
    board.configure()
    for batch in batches:
        position, status = board.send(*batch)
        assert (position == 0) is (status is MailStatus.OK)
        assert position <= len(batch)
    # Whatever came, a right mapping works afterwards.
    board.platform.device_reset()
    board.platform.region_write(7, 4, b"\x06\x00")
    board.enable()
    board.sent(GRANT)
    board.reads(DATA, LINE)
    board.sent(withdraw())
    assert board.refused(DATA, LINE, write=False) is DmaReason.PROTECTION_OUTSIDE
