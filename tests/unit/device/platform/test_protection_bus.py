# SPDX-License-Identifier: Apache-2.0
"""The protection unit on the bus and by its registers: what moves, what is told, who waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused
from dma_rehearsal.device.faults.fault import FaultyBehaviour
from dma_rehearsal.device.layout import (
    FUNCTION_NAMED,
    DmaReason,
    DmaStatus,
    Ext,
    GrantDirection,
    Plat,
    ProtectionCommand,
    ProtectionStatus,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import NoDescriptor
from tests.unit.device.fakes import BASE, SIZE, FakeClient, answer, dma, read32, start, write32
from tests.unit.device.platform.mail_board import Events
from tests.unit.device.platform.protection_board import Board

FRONT, BACK = 0x20, 0x23
IN, OUT = GrantDirection.IN, GrantDirection.OUT
IN_OUT = IN | OUT
TOP = (1 << 64) - 1


@pytest.fixture
def board(client: FakeClient) -> Board:
    client.ram[:] = bytes(range(256)) * (SIZE // 256)
    return Board(client)


@pytest.mark.parametrize("write", [False, True])
def test_denied_dma_moves_nothing_and_is_recorded(
    board: Board, client: FakeClient, write: bool
) -> None:
    board.enable()
    identity = board.grant(BASE, 100, IN_OUT, owner=0x1234_5678_9ABC)
    board.exerciser.region_write(1, 0, b"\xee" * 200)
    before = bytes(client.ram)
    found = dma(board.exerciser, BASE + 10, 91, write=write)
    assert (found["status"], found["reason"]) == (
        DmaStatus.INTERNAL,
        DmaReason.PROTECTION_PAST_END,
    )
    assert (found["moved"], found["dmastatus"]) == (0, DmaStatus.INTERNAL)
    assert client.ram == before
    assert board.exerciser.region_read(1, 0, 200) == b"\xee" * 200
    assert board.fault(1) == {
        "valid": 1,
        "sequence": 1,
        "reason": DmaReason.PROTECTION_PAST_END,
        "direction": write,
        "address": BASE + 10,
        "length": 91,
        "byte": BASE + 100,
        "grant_id": identity,
        "grant_direction": IN_OUT,
        "grant_address": BASE,
        "grant_length": 100,
        "grant_owner": 0x1234_5678_9ABC,
        "grant_function": 0,
        "function": 0,
    }
    assert dma(board.exerciser, BASE + 10, 90, write=write)["status"] == DmaStatus.OK
    assert board.faults == 1


def test_a_grant_for_another_function_moves_nothing(client: FakeClient) -> None:
    trace = Events()
    board = Board(client, trace)
    board.enable()
    board.exerciser.requester_id = BACK
    # A refused command changes nothing, and GRANT makes a grant for every function.
    for word in (0, FRONT, 2 * FUNCTION_NAMED):
        assert board.grant_to(word, BASE, 64) is ProtectionStatus.BAD_ARGUMENT
    assert board.grant_to(FUNCTION_NAMED | FRONT, BASE, 64) is ProtectionStatus.OK
    found = dma(board.exerciser, BASE, 64, write=False)
    assert (found["status"], found["moved"]) == (DmaStatus.INTERNAL, 0)
    assert found["reason"] == DmaReason.PROTECTION_FUNCTION
    fault = board.fault(1)
    assert (fault["function"], fault["grant_function"]) == (
        FUNCTION_NAMED | BACK,
        FUNCTION_NAMED | FRONT,
    )
    (event,) = trace.of("request")
    assert (event["function"], event["nearest"]["function"]) == ("00:04.3", "00:04.0")
    board.exerciser.requester_id = FRONT
    assert dma(board.exerciser, BASE, 64, write=False)["status"] == DmaStatus.OK
    as_back = Attributes(requester_id=BACK)  # what the request says is what the unit sees
    with pytest.raises(DmaRefused, match="PROTECTION_FUNCTION"):
        board.exerciser.bus.read(BASE, 64, as_back)
    assert trace.of("request")[-1]["function"] == "00:04.3"
    board.exerciser.requester_id = BACK
    board.grant(BASE, 64, OUT)
    assert dma(board.exerciser, BASE, 64, write=False)["status"] == DmaStatus.OK


def test_what_never_leaves_the_device_is_no_fault(board: Board) -> None:
    board.enable()
    board.exerciser.region_write(7, 4, b"\x02\x00")
    assert dma(board.exerciser, BASE, 4, write=False)["reason"] == DmaReason.BUS_MASTER_OFF
    assert board.faults == 0


def test_dma_of_no_bytes_passes(board: Board) -> None:
    board.enable()
    assert dma(board.exerciser, BASE, 0, write=True)["status"] == DmaStatus.OK


def test_grant_does_not_map_memory(board: Board) -> None:
    board.enable()
    board.grant(0x4000_0000, 64, IN_OUT)
    assert dma(board.exerciser, 0x4000_0000, 64, write=True)["reason"] == DmaReason.UNMAPPED
    assert board.faults == 0


def test_chain_moves_whole_or_not_at_all(board: Board, client: FakeClient) -> None:
    table = BASE + 0x1000
    board.grant(BASE, 64, OUT)
    board.grant(BASE + 128, 64, IN)
    for index, (place, flags) in enumerate(((BASE, RingFlag.CHAIN), (BASE + 128, RingFlag(0)))):
        descriptor = RingDescriptor(place, 64, 64 * index, flags)
        client.ram[0x1000 + 32 * index : 0x1020 + 32 * index] = descriptor.pack()
    exerciser = board.exerciser
    write32(exerciser, 3, Ext.RING_BASE_LO, table)
    write32(exerciser, 3, Ext.RING_SIZE, 4)
    write32(exerciser, 3, Ext.RING_CONTROL, 1)
    board.enable()
    write32(exerciser, 3, Ext.RING_DOORBELL, 2)
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.UNREACHABLE
    board.grant(table, 128, OUT)
    write32(exerciser, 3, Ext.RING_DOORBELL, 2)
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.REFUSED
    assert exerciser.region_read(1, 0, 128) == bytes(128)
    reasons = [board.fault(sequence)["reason"] for sequence in (1, 2)]
    assert reasons == [DmaReason.PROTECTION_OUTSIDE, DmaReason.PROTECTION_DIRECTION]
    assert board.faults == 2


@pytest.mark.parametrize("write", [False, True])
def test_dma_that_may_need_messages_is_judged_as_well(
    board: Board, client: FakeClient, write: bool
) -> None:
    board.enable()
    board.grant(BASE, 64, IN if write else OUT)
    outcomes: list[bytes | DmaRefused] = []
    before = bytes(client.ram)

    def run(length: int) -> None:
        if write:
            board.exerciser.bus.write_async(BASE, bytes(length), outcomes.append)
        else:
            board.exerciser.bus.read_async(BASE, length, outcomes.append)
        board.exerciser.go_on()

    run(65)
    assert client.ram == before
    run(64)
    refusal, moved = outcomes
    assert isinstance(refusal, DmaRefused)
    assert (refusal.reason, refusal.address) == (DmaReason.PROTECTION_PAST_END, BASE + 64)
    assert moved == (b"" if write else before[:64])


class Bare(FakeClient):
    """Memory at BASE that it alone reaches; a message carries half of what is asked for here."""

    message_max = 32

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        super().memory(address, length, write=write)
        raise NoDescriptor(address)


@pytest.fixture
def bare() -> tuple[Board, Bare, int]:
    """A board before such a client, and a grant of all 64 bytes."""
    client = Bare()
    board = Board(client)
    board.enable()
    return board, client, board.grant(BASE, 64, IN_OUT)


Outcomes = list[bytes | DmaRefused]


def started(board: Board, *, write: bool, by_message: bool = False) -> Outcomes:
    """Start a DMA of 64 bytes, and let the queue go on."""
    outcomes: Outcomes = []
    bus = board.exerciser.bus
    if write:
        bus.write_async(BASE, bytes(range(64)), outcomes.append, by_message=by_message)
    else:
        bus.read_async(BASE, 64, outcomes.append, by_message=by_message)
    board.exerciser.go_on()
    return outcomes


@pytest.mark.parametrize("by_message", [False, True])
@pytest.mark.parametrize("write", [False, True])
def test_dma_by_messages_with_its_grant(
    bare: tuple[Board, Bare, int], write: bool, by_message: bool
) -> None:
    board, client, _ = bare
    outcomes = started(board, write=write, by_message=by_message)
    first = client.answer(b"" if write else b"a" * 32)
    second = client.answer(b"" if write else b"b" * 32)
    assert [(each.address, each.length) for each in (first, second)] == [
        (BASE, 32),
        (BASE + 32, 32),
    ]
    if write:
        assert (first.data, second.data) == (bytes(range(32)), bytes(range(32, 64)))
    assert outcomes == [b"" if write else b"a" * 32 + b"b" * 32]
    assert board.faults == 0


ENDS: list[tuple[Callable[[Board, int], object], DmaReason]] = [
    (
        lambda board, identity: board.command(ProtectionCommand.WITHDRAW, id=identity),
        DmaReason.PROTECTION_OUTSIDE,
    ),
    (lambda board, _: board.exerciser.region_write(7, 4, b"\2\0"), DmaReason.BUS_MASTER_OFF),
]


class Patient(FaultyBehaviour):
    """Leaves a DMA under way when bus mastering ends, as an author's endpoint does."""

    def end_dma(self, reason: DmaReason) -> None:
        if reason is not DmaReason.BUS_MASTER_OFF:
            super().end_dma(reason)


@pytest.mark.parametrize("by_message", [False, True])
@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize(("end", "reason"), ENDS, ids=["withdrawn", "bus mastering off"])
def test_what_is_read_by_messages_is_not_given_out_without_the_right(
    bare: tuple[Board, Bare, int],
    end: Callable[[Board, int], object],
    reason: DmaReason,
    piece: int,
    by_message: bool,
) -> None:
    """The client has answered, the last piece even; the data are not taken."""
    board, client, identity = bare
    board.exerciser.behaviour = Patient(board.exerciser)
    outcomes = started(board, write=False, by_message=by_message)
    for _ in range(piece):
        client.answer(bytes(32))
    end(board, identity)
    client.answer(bytes(32))
    (refusal,) = outcomes
    assert isinstance(refusal, DmaRefused)
    assert (refusal.reason, refusal.address) == (reason, BASE + 32 * piece)
    assert client.messages == [], "nothing more is asked for"


@pytest.mark.parametrize("by_message", [False, True])
@pytest.mark.parametrize(("end", "reason"), ENDS, ids=["withdrawn", "bus mastering off"])
def test_what_is_written_by_messages_ends_with_the_right(
    bare: tuple[Board, Bare, int],
    tmp_path: Path,
    end: Callable[[Board, int], object],
    reason: DmaReason,
    by_message: bool,
) -> None:
    """The piece that the client was asked to take cannot be called back: it is told as moved."""
    board, client, identity = bare
    trace = board.exerciser.bus.trace = Trace(tmp_path / "trace")
    board.exerciser.behaviour = Patient(board.exerciser)
    outcomes = started(board, write=True, by_message=by_message)
    end(board, identity)
    client.answer()
    (refusal,) = outcomes
    assert isinstance(refusal, DmaRefused)
    assert (refusal.reason, refusal.address) == (reason, BASE + 32)
    assert client.messages == []
    trace.close()
    (event,) = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert (event["reason"], event["moved"]) == (reason.name, 32)


@pytest.mark.parametrize("end", ENDS, ids=["withdrawn", "bus mastering off"])
def test_last_piece_that_was_written_is_the_end(
    bare: tuple[Board, Bare, int], end: tuple[Callable[[Board, int], object], DmaReason]
) -> None:
    board, client, identity = bare
    board.exerciser.behaviour = Patient(board.exerciser)
    outcomes = started(board, write=True)
    client.answer()
    end[0](board, identity)
    client.answer()
    assert outcomes == [b""], "all of it was moved by the right that it had"


def test_reset_drops_what_the_client_answers_later(bare: tuple[Board, Bare, int]) -> None:
    board, client, _ = bare
    outcomes = started(board, write=False)
    board.exerciser.device_reset()
    client.answer(bytes(32))
    board.exerciser.go_on()
    assert (outcomes, client.messages) == ([], [])


def test_dma_behind_one_that_waits_is_judged_when_it_moves(client: FakeClient) -> None:
    """Queued with its grant, withdrawn while it waits: it moves nothing."""

    class Partly(FakeClient):
        def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
            if address >= BASE + 4096:
                raise NoDescriptor(address)
            return super().memory(address, length, write=write)

    client = Partly()
    board = Board(client)
    board.enable()
    board.grant(BASE + 4096, 64, IN_OUT)
    identity = board.grant(BASE, 64, IN_OUT)
    outcomes: Outcomes = []
    board.exerciser.bus.write_async(BASE + 4096, b"by message", outcomes.append)
    board.exerciser.bus.write_async(BASE, b"mapped", outcomes.append)
    board.exerciser.go_on()
    assert outcomes == []
    board.command(ProtectionCommand.WITHDRAW, id=identity)
    client.answer()
    first, second = outcomes
    assert first == b""
    assert isinstance(second, DmaRefused)
    assert second.reason is DmaReason.PROTECTION_OUTSIDE
    assert client.ram[:6] == bytes(6)


def test_platform_itself_is_not_judged(board: Board) -> None:
    board.platform.region_write(7, 4, b"\x06\x00")
    board.enable()
    assert board.platform.bus.read(BASE, 4) == b"\x00\x01\x02\x03"


def test_end_of_a_dma_may_start_another(board: Board) -> None:
    outcomes: list[bytes | DmaRefused] = []
    bus = board.exerciser.bus
    bus.read_async(BASE, 4, lambda _: bus.read_async(BASE + 4, 4, outcomes.append))
    assert outcomes == []
    board.exerciser.go_on()
    assert outcomes == [b"\x04\x05\x06\x07"]


def test_trace_has_every_denial_with_all_fields(client: FakeClient, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    board = Board(client, trace)
    board.enable()
    board.grant(BASE, 64, IN, owner=9)
    dma(board.exerciser, BASE, 8, write=False)
    trace.close()
    events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    (fault,) = (each for each in events if each["event"] == "request")
    del fault["time"]
    grant = {"id": 1, "address": hex(BASE), "length": 64, "direction": "IN", "owner": "0x9"}
    assert fault == {
        "device": "exerciser",
        "test": None,
        "event": "request",
        "sequence": 1,
        "write": False,
        "ranges": [[hex(BASE), 8]],
        "moved": 0,
        "reason": "PROTECTION_DIRECTION",
        "byte": hex(BASE),
        "nearest": grant,
    }


def test_interrupts_need_no_grant(board: Board, client: FakeClient) -> None:
    board.enable()
    start(board.exerciser)
    assert board.exerciser.msix(3)
    assert client.interrupts
    assert board.faults == 0


@pytest.mark.parametrize(
    "move",
    [
        lambda bus: bus.read(BASE, 64),
        lambda bus: bus.write(BASE, bytes(64)),
        lambda bus: bus.read_list([(BASE, 32), (BASE + 32, 32)]),
        lambda bus: bus.write_list([(BASE, bytes(32)), (BASE + 32, bytes(32))]),
        lambda bus: bus.read_async(BASE, 64, lambda _: None),
        lambda bus: bus.write_async(BASE, bytes(64), lambda _: None),
        lambda bus: bus.read_list_async([(BASE, 32), (BASE + 32, 32)], lambda _: None),
        lambda bus: bus.write_list_async([(BASE, bytes(64))], lambda _: None),
    ],
    ids=[
        *("read", "write", "read list", "write list"),
        *("read async", "write async", "read list async", "write list async"),
    ],
)
def test_withdrawal_waits_for_a_dma_that_moves(
    board: Board, client: FakeClient, monkeypatch: pytest.MonkeyPatch, move: Callable[[Bus], None]
) -> None:
    """No byte moves by a grant after its withdrawal was seen to be done."""
    board.enable()
    identity = board.grant(BASE, 64, IN_OUT)
    statuses: list[ProtectionStatus] = []
    withdrawal = threading.Thread(
        target=lambda: statuses.append(board.command(ProtectionCommand.WITHDRAW, id=identity))
    )
    resolve = client.memory
    early: list[ProtectionStatus] = []  # a queue catches what is raised within

    def memory(address: int, length: int, *, write: bool) -> list[memoryview]:
        """Between the check and the bytes, let the platform's thread try."""
        if not withdrawal.ident:
            withdrawal.start()
        withdrawal.join(0.05)
        early.extend(statuses)
        return resolve(address, length, write=write)

    monkeypatch.setattr(client, "memory", memory)
    move(board.exerciser.bus)
    board.exerciser.go_on()
    withdrawal.join(10)
    assert early == []
    assert statuses == [ProtectionStatus.OK]
    assert board.faults == 0


# By registers.


def test_commands_and_their_statuses(board: Board) -> None:
    status = ProtectionStatus(read32(board.platform, 0, Plat.PROTECTION_STATUS))
    assert status is ProtectionStatus.NEVER_RUN
    command = board.command
    for unknown in (0, 8, 0xFFFF_FFFF):
        assert command(unknown) is ProtectionStatus.UNKNOWN_COMMAND
    assert command(ProtectionCommand.NEXT_OWNER, owner=0) is ProtectionStatus.NO_SUCH_OWNER
    assert command(ProtectionCommand.WITHDRAW, id=1) is ProtectionStatus.NO_SUCH_GRANT
    bad = {"address": TOP, "length": 2, "direction": 1}
    assert command(ProtectionCommand.GRANT, **bad) is ProtectionStatus.BAD_ARGUMENT
    assert command(ProtectionCommand.GRANT, length=0) is ProtectionStatus.BAD_ARGUMENT
    first = board.grant(TOP, 1, IN, owner=TOP)
    assert board.grant(BASE, 1, IN, owner=5) != first
    assert command(ProtectionCommand.NEXT_OWNER, owner=6) is ProtectionStatus.OK
    assert board.get64(Plat.GRANT_OWNER_LO) == TOP
    assert read32(board.platform, 0, Plat.GRANT_COUNT) == 2
    assert command(ProtectionCommand.WITHDRAW_OWNER, owner=TOP) is ProtectionStatus.OK
    assert read32(board.platform, 0, Plat.GRANT_WITHDRAWN) == 1
    assert command(ProtectionCommand.WITHDRAW_OWNER, owner=TOP) is ProtectionStatus.OK
    assert read32(board.platform, 0, Plat.GRANT_WITHDRAWN) == 0
    again = [board.grant(BASE + 8 * number, 8, IN, owner=TOP) for number in range(3)]
    assert command(ProtectionCommand.WITHDRAW, id=again[1]) is ProtectionStatus.OK
    assert read32(board.platform, 0, Plat.GRANT_WITHDRAWN) == 1
    assert command(ProtectionCommand.WITHDRAW_OWNER, owner=TOP) is ProtectionStatus.OK
    assert read32(board.platform, 0, Plat.GRANT_WITHDRAWN) == 2


def test_reset_of_the_platform_drops_all_and_one_of_the_device_nothing(board: Board) -> None:
    board.enable()
    board.grant(BASE, 64, OUT)
    dma(board.exerciser, BASE, 64, write=True)
    board.exerciser.device_reset()
    assert read32(board.platform, 0, Plat.PROTECTION_ENABLED) == 1
    assert (read32(board.platform, 0, Plat.GRANT_COUNT), board.faults) == (1, 1)
    board.platform.device_reset()
    answer(board.platform)
    assert read32(board.platform, 0, Plat.PROTECTION_ENABLED) == 0
    assert (read32(board.platform, 0, Plat.GRANT_COUNT), board.faults) == (0, 0)
    assert board.fault(1)["valid"] == 0
    board.exerciser.region_write(7, 4, b"\x06\x00")
    assert dma(board.exerciser, BASE, 64, write=True)["status"] == DmaStatus.OK


def test_no_fault_shows_zeros(board: Board) -> None:
    for sequence in (0, 1, 0xFFFF_FFFF):
        assert not any(board.fault(sequence).values())


# Bytes that requests touched.


def touched(board: Board, address: int, length: int, since: int, direction: int) -> list[int]:
    board.set64(Plat.TOUCHED_ADDRESS_LO, address)
    board.set64(Plat.TOUCHED_LENGTH_LO, length)
    write32(board.platform, 0, Plat.TOUCHED_SINCE, since)
    write32(board.platform, 0, Plat.TOUCHED_DIRECTION, direction)
    known = read32(board.platform, 0, Plat.TOUCHED_KNOWN)
    return [known, board.get64(Plat.TOUCHED_COUNT_LO), board.get64(Plat.TOUCHED_FIRST_LO)]


def test_the_registers_tell_what_requests_touched(board: Board) -> None:
    bus = board.exerciser.bus
    assert touched(board, BASE, 64, 0, IN)[0] == 0, "the unit is off"
    board.enable()
    board.grant(BASE, 64, IN_OUT)
    since = read32(board.platform, 0, Plat.REQUEST_COUNT)
    bus.write(BASE, bytes(16))
    bus.read(BASE + 16, 16)
    assert touched(board, BASE, 64, since, IN) == [1, 16, 16]
    assert touched(board, BASE, 64, since, OUT) == [1, 16, 0]
    assert touched(board, BASE, 64, since, IN_OUT) == [1, 32, 32]
    assert touched(board, BASE, 16, since, IN) == [1, 16, 16]
    assert touched(board, BASE, 64, since + 1, IN) == [1, 0, 0], "after that one"
    with pytest.raises(DmaRefused):
        bus.write(BASE + 32, bytes(64))
    assert touched(board, BASE, 64, since, IN) == [1, 16, 16], "what is refused touches nothing"


def test_list_that_is_refused_touches_none_of_its_ranges(board: Board) -> None:
    board.enable()
    board.grant(BASE, 64, IN)
    since = read32(board.platform, 0, Plat.REQUEST_COUNT)
    with pytest.raises(DmaRefused):
        board.exerciser.bus.write_list([(BASE, bytes(16)), (BASE + 64, bytes(16))])
    assert touched(board, BASE, 64, since, IN) == [1, 0, 0]
    board.exerciser.bus.write_list([(BASE, bytes(16)), (BASE + 16, bytes(8))])
    assert touched(board, BASE, 64, since, IN) == [1, 24, 24]


def test_what_was_written_by_messages_before_a_refusal_is_touched(
    bare: tuple[Board, Bare, int],
) -> None:
    board, client, identity = bare
    since = read32(board.platform, 0, Plat.REQUEST_COUNT)
    started(board, write=True)
    assert touched(board, BASE, 64, since, IN) == [1, 0, 0], "asked for alone"
    board.command(ProtectionCommand.WITHDRAW, id=identity)
    client.answer()
    assert touched(board, BASE, 64, since, IN) == [1, 32, 32]
