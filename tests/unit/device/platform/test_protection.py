# SPDX-License-Identifier: Apache-2.0
"""The protection unit against a naive model of every byte and every grant."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dma_rehearsal.device.layout import (
    FUNCTION_CAPACITY,
    GRANT_CAPACITY,
    DmaDirection,
    DmaReason,
    GrantDirection,
    ProtectionStatus,
)
from dma_rehearsal.device.platform.coverage import Coverage
from dma_rehearsal.device.platform.protection import (
    Grant,
    Opened,
    Protection,
    ProtectionError,
    ProtectionRules,
)
from tests.generated import examples

IN, OUT = GrantDirection.IN, GrantDirection.OUT
IN_OUT = IN | OUT
SPACE = 40  # addresses that the model looks at
TOP = (1 << 64) - 1
FRONT, BACK, BESIDE = 0x20, 0x23, 0x30  # requester IDs: 00:04.0, 00:04.3, 00:06.0
FUNCTIONS = st.sampled_from((None, FRONT, BACK, BESIDE))


def wanted(write: bool) -> GrantDirection:
    return IN if write else OUT


def usable(grant: Grant, function: int | None) -> bool:
    """Return whether a function may use a grant; None: one that is not known."""
    return function is None or grant.function in (None, function)


def naive_reason(
    grants: list[Grant], address: int, length: int, write: bool, function: int | None = None
) -> tuple[DmaReason, int]:
    """Judge byte by byte, grant by grant."""
    for byte in range(address, address + length):
        covering = [each for each in grants if each.address <= byte < each.end]
        own = [each for each in covering if usable(each, function)]
        if any(each.direction & wanted(write) for each in own):
            continue
        if own:
            return DmaReason.PROTECTION_DIRECTION, byte
        if covering:
            return DmaReason.PROTECTION_FUNCTION, byte
        first = byte == address
        return (DmaReason.PROTECTION_OUTSIDE if first else DmaReason.PROTECTION_PAST_END), byte
    return DmaReason.NONE, 0


def naive_nearest(
    grants: list[Grant],
    reason: DmaReason,
    byte: int,
    function: int | None = None,
    *,
    write: bool = False,
) -> Grant | None:
    """Look at the distance of every grant."""
    covering = [each for each in grants if each.address <= byte < each.end]
    if reason is DmaReason.PROTECTION_DIRECTION:
        own = [each for each in covering if usable(each, function)]
        return max(own, key=lambda each: (each.address, each.id))
    if reason is DmaReason.PROTECTION_FUNCTION:
        fits = [each for each in covering if each.direction & wanted(write)]
        return max(fits or covering, key=lambda each: (each.address, each.id))

    def rank(grant: Grant) -> tuple[int, bool, int]:
        below = grant.end <= byte
        distance = byte - (grant.end - 1) if below else grant.address - byte
        return distance, not below, -grant.id

    return min(grants, key=rank, default=None)


class AgainstEveryByte(RuleBasedStateMachine):
    """Grants come and go in any order; after each step every request is judged alike."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Protection(capacity=8, fault_capacity=4)
        self.unit.enabled = True
        self.grants: list[Grant] = []
        self.denied = 0

    @rule(
        address=st.integers(0, SPACE),
        length=st.integers(0, SPACE // 2),
        direction=st.integers(0, 4),
        owner=st.integers(0, 2),
        function=FUNCTIONS,
    )
    def grant(
        self, address: int, length: int, direction: int, owner: int, function: int | None
    ) -> None:
        due = None
        if not length or not 1 <= direction <= 3:
            due = ProtectionStatus.BAD_ARGUMENT
        elif len(self.grants) == 8:
            due = ProtectionStatus.FULL
        if due is not None:
            with pytest.raises(ProtectionError, match=due.name):
                self.unit.grant(address, length, direction, owner, function)
            return
        made = self.unit.grant(address, length, direction, owner, function)
        assert made.function == function
        assert made.id not in {each.id for each in self.grants}
        self.grants.append(made)

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.grants))
        assert self.unit.withdraw(chosen.id) == chosen
        self.grants.remove(chosen)
        with pytest.raises(ProtectionError) as twice:
            self.unit.withdraw(chosen.id)
        assert twice.value.status is ProtectionStatus.NO_SUCH_GRANT

    @rule(owner=st.integers(0, 2))
    def withdraw_owner(self, owner: int) -> None:
        theirs = [each for each in self.grants if each.owner == owner]
        assert self.unit.withdraw_owner(owner) == len(theirs)
        self.grants = [each for each in self.grants if each.owner != owner]

    @rule(
        address=st.integers(0, SPACE + 20),
        length=st.integers(0, SPACE),
        write=st.booleans(),
        function=FUNCTIONS,
    )
    def request(self, address: int, length: int, write: bool, function: int | None) -> None:
        reason, byte = naive_reason(self.grants, address, length, write, function)
        fault = self.unit.check(address, length, write=write, function=function)
        if fault is None:
            assert reason is DmaReason.NONE
            return
        self.denied += 1
        assert (fault.reason, fault.byte) == (reason, byte)
        due = naive_nearest(self.grants, reason, byte, function, write=write)
        assert fault.nearest == due
        assert fault.function == function
        assert (fault.sequence, fault.direction) == (self.denied, DmaDirection(write))
        assert (fault.address, fault.length) == (address, length)
        assert self.unit.fault(self.denied) == fault

    @invariant()
    def agrees(self) -> None:
        assert len(self.unit) == len(self.grants)
        assert self.unit.faults_lost == max(0, self.denied - 4)
        assert self.unit.fault(self.unit.faults_lost) is None
        assert self.unit.fault(self.denied + 1) is None
        owners = {each.owner for each in self.grants}
        for least in range(4):
            due = min((owner for owner in owners if owner >= least), default=None)
            try:
                assert self.unit.next_owner(least) == due
            except ProtectionError:
                assert due is None


TestAgainstEveryByte = AgainstEveryByte.TestCase
TestAgainstEveryByte.settings = settings(max_examples=examples(150), deadline=None)

ranges = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda each: (each[0], sum(each)))
)


@given(ranges, ranges)
def test_coverage_built_at_once_is_the_one_built_step_by_step(
    kept: list[tuple[int, int]], gone: list[tuple[int, int]]
) -> None:
    one_by_one = Coverage()
    for each in kept + gone:
        one_by_one.add(*each)
    for each in gone:
        one_by_one.add(*each, -1)
    at_once = Coverage(kept)
    assert at_once.pieces == one_by_one.pieces


def test_off_lets_everything_through() -> None:
    unit = Protection()
    assert unit.check(0, 1 << 64, write=True) is None
    unit.enabled = True
    fault = unit.check(5, 1, write=False)
    assert fault is not None
    assert fault.nearest is None


def test_all_of_memory_can_be_granted() -> None:
    unit = Protection()
    unit.enabled = True
    unit.grant(0, 1 << 64, IN_OUT, 0)
    assert unit.check(TOP, 1, write=True) is None
    with pytest.raises(ProtectionError):
        unit.grant(TOP, 2, IN, 0)


def test_ids_are_not_used_again_while_they_live() -> None:
    unit = Protection()
    first = unit.grant(0, 1, IN, 0)
    unit._last_id = (1 << 32) - 2
    assert [unit.grant(0, 1, IN, 0).id for _ in range(2)] == [(1 << 32) - 1, 2]
    assert first.id == 1


@pytest.mark.parametrize(
    "place",
    [
        lambda index: (index * 16, 16),
        lambda index: (index * 32, 16),
        lambda index: (index, 100_000 - 2 * index),
        lambda index: (0, index + 1),
    ],
    ids=["adjacent", "apart", "nested", "stacked"],
)
def test_thousands_of_grants_that_overlap_come_and_go(
    place: Callable[[int], tuple[int, int]],
) -> None:
    unit = Protection(capacity=4096)
    unit.enabled = True
    made = [unit.grant(*place(index), IN, index % 2) for index in range(4096)]
    with pytest.raises(ProtectionError) as full:
        unit.grant(0, 1, IN, 0)
    assert full.value.status is ProtectionStatus.FULL
    for each in made[1::2]:
        unit.withdraw(each.id)
    assert all(unit.check(each.address, each.length, write=True) is None for each in made[::2])
    assert unit.withdraw_owner(0) == 2048
    assert [each.every.pieces for each in unit._open.values()] == [[(0, 0)], [(0, 0)]]
    assert unit.check(made[0].address, 1, write=True) is not None


def test_all_grants_in_use() -> None:
    """Adjacent grants are one range; without one of them it has a hole, exactly."""
    unit, piece = Protection(), 16
    unit.enabled = True
    # Not in order, so that the unit has to sort; each is another owner's, as a mapping's is.
    for start in range(7):
        for index in range(start, GRANT_CAPACITY, 7):
            unit.grant(0x1000 + index * piece, piece, OUT, index)
    with pytest.raises(ProtectionError, match="FULL"):
        unit.grant(0x1000, piece, OUT, 0)
    length = GRANT_CAPACITY * piece
    assert unit.check(0x1000, length, write=False) is None
    hole = GRANT_CAPACITY * 2 // 3
    assert unit.withdraw_owner(hole) == 1
    fault = unit.check(0x1000, length, write=False)
    assert fault is not None
    assert (fault.reason, fault.byte) == (DmaReason.PROTECTION_PAST_END, 0x1000 + hole * piece)
    assert fault.nearest is not None
    assert fault.nearest.owner == hole - 1
    unit.grant(0x1000 + hole * piece, piece, OUT, 1)
    assert unit.check(0x1000, length, write=False) is None
    assert unit.next_owner(hole) == hole + 1
    assert unit.withdraw_owner(1) == 2


@pytest.mark.parametrize("seed", range(4))
def test_nearest_of_hundreds(seed: int) -> None:
    """Some that cover a byte begin far before it, with hundreds that do not in between."""
    draw = Random(seed)
    unit = Protection()
    unit.enabled = True
    grants = [unit.grant(0, 990 + index, OUT, 0) for index in range(3)]
    for _ in range(600):
        grants.append(unit.grant(draw.randrange(1000), draw.randrange(1, 4), OUT, 0))
    for byte in range(0, 1100, 7):
        for write in False, True:
            reason, at = naive_reason(grants, byte, 1, write)
            fault = unit.check(byte, 1, write=write)
            assert (reason is DmaReason.NONE) == (fault is None)
            assert fault is None or fault.nearest == naive_nearest(grants, reason, at)


def judged(unit: Protection, function: int | None, address: int, length: int) -> str:
    """Return the reason for which a read is denied, NONE for one that passes."""
    fault = unit.check(address, length, write=False, function=function)
    return "NONE" if fault is None else fault.reason.name.removeprefix("PROTECTION_")


def test_a_grant_for_one_function() -> None:
    unit = Protection()
    unit.enabled = True
    made = unit.grant(0x1000, 64, OUT, 1, FRONT)
    assert judged(unit, FRONT, 0x1000, 64) == "NONE"
    for other in BACK, BESIDE:
        assert judged(unit, other, 0x1000, 64) == "FUNCTION"
        assert judged(unit, other, 0xFFF, 1) == "OUTSIDE"
        assert judged(unit, other, 0xFFF, 2) == "OUTSIDE"
    fault = unit.check(0x103F, 2, write=False, function=BACK)
    assert fault is not None
    assert (fault.byte, fault.nearest, fault.function) == (0x103F, made, BACK)
    assert judged(unit, None, 0x1000, 64) == "NONE", "a function that is not known"
    unit.grant(0x1000, 64, IN, 1, BACK)
    assert judged(unit, BACK, 0x1000, 64) == "DIRECTION", "its own grant says more"
    with pytest.raises(ProtectionError, match="BAD_ARGUMENT"):
        unit.grant(0x1000, 64, OUT, 1, 1 << 16)


def test_a_grant_for_every_function() -> None:
    unit = Protection()
    unit.enabled = True
    unit.grant(0x1000, 64, OUT, 1)
    unit.grant(0x2000, 64, OUT, 1, FRONT)
    assert {judged(unit, each, 0x1000, 64) for each in (FRONT, BACK, BESIDE, None)} == {"NONE"}


def test_grants_of_two_functions_overlap() -> None:
    """Each function has its own bytes and those of every function, and loses only its own."""
    unit = Protection()
    unit.enabled = True
    front = unit.grant(0x1000, 48, OUT, 1, FRONT)
    unit.grant(0x1020, 48, OUT, 2, BACK)
    unit.grant(0x1050, 16, OUT, 3)
    assert judged(unit, FRONT, 0x1000, 48) == "NONE"
    assert judged(unit, FRONT, 0x1000, 49) == "FUNCTION"
    assert judged(unit, BACK, 0x1020, 64) == "NONE", "its own and the neighbour for every function"
    assert judged(unit, BACK, 0x101F, 2) == "FUNCTION"
    unit.withdraw(front.id)
    assert judged(unit, FRONT, 0x1000, 1) == "OUTSIDE"
    assert judged(unit, FRONT, 0x1020, 1) == "FUNCTION"
    assert judged(unit, BACK, 0x1020, 64) == "NONE"
    assert unit.withdraw_owner(2) == 1
    assert judged(unit, BACK, 0x1020, 1) == "OUTSIDE"
    assert judged(unit, BACK, 0x1050, 16) == "NONE"
    assert all(not each.named for each in unit._open.values())


def test_a_bounded_number_of_functions_is_named() -> None:
    """Each has a coverage of its own, and a guest could name thousands."""
    unit = Protection()
    unit.enabled = True
    for function in range(FUNCTION_CAPACITY):
        for _ in range(2):
            unit.grant(0x1000 + 16 * function, 16, OUT, function % 2, function)
    with pytest.raises(ProtectionError, match="FULL"):
        unit.grant(0, 1, OUT, 0, FUNCTION_CAPACITY)
    assert len(unit) == 2 * FUNCTION_CAPACITY
    assert judged(unit, 7, 0x1070, 16) == "NONE"
    assert judged(unit, 7, 0x1080, 16) == "FUNCTION"
    assert judged(unit, None, 0x1000, FUNCTION_CAPACITY * 16) == "NONE"
    assert unit.withdraw_owner(0) == FUNCTION_CAPACITY
    assert judged(unit, 7, 0x1070, 16) == "NONE"
    assert judged(unit, 8, 0x1080, 16) == "OUTSIDE"
    unit.grant(0, 1, OUT, 0, FUNCTION_CAPACITY)
    assert judged(unit, FUNCTION_CAPACITY, 0, 1) == "NONE"
    unit.reset()
    for function in range(FUNCTION_CAPACITY):
        unit.grant(0, 1, OUT, 0, 0x100 + function)


def test_a_grant_for_one_function_stays_so_when_most_grants_go_at_once() -> None:
    unit = Protection()
    unit.enabled = True
    for place in range(200):
        unit.grant(0x10000 + 16 * place, 8, OUT, 1)
    unit.grant(0x1000, 16, OUT, 2, FRONT)
    assert unit.withdraw_owner(1) == 200
    assert judged(unit, FRONT, 0x1000, 16) == "NONE"
    assert judged(unit, BACK, 0x1000, 16) == "FUNCTION"


def test_thousands_of_pieces_by_turns() -> None:
    """Every second one is for one function; each half is withdrawn at once."""
    unit = Protection()
    unit.enabled = True
    pieces = GRANT_CAPACITY // 4
    for index in range(pieces):
        unit.grant(16 * index, 16, OUT, index % 2, FRONT if index % 2 else None)
    for _ in range(1000):  # as the segments of a list: the search is not by pieces
        assert judged(unit, FRONT, 0, 16 * pieces) == "NONE"
    assert judged(unit, FRONT, 0, 16 * pieces + 1) == "PAST_END"
    assert judged(unit, BACK, 0, 16 * pieces) == "FUNCTION"
    assert judged(unit, None, 0, 16 * pieces) == "NONE"
    assert unit.withdraw_owner(0) == pieces // 2
    assert judged(unit, FRONT, 16, 16) == "NONE"
    assert judged(unit, FRONT, 16, 17) == "PAST_END"
    assert unit.withdraw_owner(1) == pieces // 2
    assert all(not each.named for each in unit._open.values())
    assert judged(unit, FRONT, 16, 16) == "OUTSIDE"


def test_grant_keeps_what_it_opened_when_the_rules_change() -> None:
    class OneByteMore(ProtectionRules):
        def opens(self, grant: Grant) -> Opened:
            return grant.address, grant.end + 1, grant.direction, grant.function

    unit = Protection()
    unit.enabled = True
    plain = unit.grant(0x1000, 16, OUT, 1)
    unit.rules = OneByteMore()
    longer = unit.grant(0x2000, 16, OUT, 1)
    assert unit.check(0x1000, 17, write=False)
    assert not unit.check(0x2000, 17, write=False)
    unit.withdraw(plain.id)
    assert unit.check(0x1000, 1, write=False)
    unit.rules = ProtectionRules()
    assert unit.withdraw_owner(2) == 0
    assert not unit.check(0x2000, 17, write=False)
    unit.withdraw(longer.id)
    assert all(unit.check(0x2000 + each, 1, write=False) for each in range(18))
