# SPDX-License-Identifier: Apache-2.0
"""Scatter-gather lists: the short way through one mapping does what the long way does."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused, Transaction
from dma_rehearsal.device.endpoints.interconnect import Refusal, Request
from dma_rehearsal.device.endpoints.request_log import HISTORY
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import Feature, FeatureFlag
from tests.generated import examples
from tests.unit.vfio_user.connected_endpoint import (
    BAR,
    BARE,
    FIRST,
    PAGE,
    READ_ONLY,
    SECOND,
    ConnectedEndpoint,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[ConnectedEndpoint]:
    rig = ConnectedEndpoint()
    yield rig
    rig.close()


@pytest.fixture
def rig() -> Iterator[ConnectedEndpoint]:
    made = ConnectedEndpoint()
    yield made
    made.close()


ADDRESSES = st.one_of(
    st.integers(FIRST, FIRST + 2 * PAGE),
    st.sampled_from([FIRST - 1, SECOND - 1, SECOND, READ_ONLY - 1, READ_ONLY, BARE, (1 << 64) - 4]),
)
RANGES = st.lists(st.tuples(ADDRESSES, st.integers(0, 300)), min_size=1, max_size=6)
PATTERN = bytes(range(256)) * (5 * PAGE // 256)


def one_by_one(
    rig: ConnectedEndpoint, ranges: list[tuple[int, int]], *, write: bool
) -> tuple[DmaReason, list[Transaction]]:
    """Return how a list must end, and its record: the first refusal of one ends it."""
    found: list[Transaction] = []
    for address, length in ranges:
        rig.endpoint.bus.transactions.clear()
        try:
            if write:
                rig.endpoint.bus.write(address, bytes(length))
            else:
                rig.endpoint.bus.read(address, length)
        except DmaRefused as refusal:
            return refusal.reason, list(rig.endpoint.bus.transactions)
        found += rig.endpoint.bus.transactions
    return DmaReason.NONE, found


def outcome(work: Callable[[], list[bytes] | None]) -> tuple[DmaReason, list[bytes] | None]:
    try:
        return DmaReason.NONE, work()
    except DmaRefused as refusal:
        return refusal.reason, None


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(RANGES)
def test_reading_a_list_is_reading_one_by_one(
    shared: ConnectedEndpoint, ranges: list[tuple[int, int]]
) -> None:
    shared.fill(PATTERN)
    reason, transactions = one_by_one(shared, ranges, write=False)
    bus = shared.endpoint.bus
    pieces = [] if reason else [bus.read(*each) for each in ranges]
    bus.transactions.clear()
    assert outcome(lambda: bus.read_list(ranges)) == (reason, pieces or None)
    assert list(bus.transactions) == transactions


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(RANGES)
def test_writing_a_list_is_writing_one_by_one_or_nothing(
    shared: ConnectedEndpoint, ranges: list[tuple[int, int]]
) -> None:
    bus = shared.endpoint.bus
    data = [(address, os.urandom(length)) for address, length in ranges]
    reason, transactions = one_by_one(shared, ranges, write=True)
    shared.fill(PATTERN)
    if not reason:
        for each in data:
            bus.write(*each)
    due = shared.content
    shared.fill(PATTERN)
    assert outcome(lambda: bus.write_list(data)) == (reason, None)
    assert shared.content == due
    assert list(bus.transactions) == transactions


def do_list(bus: Bus, ranges: list[tuple[int, int]], *, write: bool) -> None:
    if write:
        bus.write_list([(address, b"x" * length) for address, length in ranges])
    else:
        bus.read_list(ranges)


@pytest.mark.parametrize("write", [False, True])
def test_own_bar_among_the_mapped(rig: ConnectedEndpoint, write: bool) -> None:
    """A client may map what it also decodes as our BAR: nothing of a list reaches that."""
    rig.endpoint.region_write(7, 0x10, struct.pack("<I", BAR))
    rig.endpoint.region_write(7, 4, b"\6\0")
    bus = rig.endpoint.bus
    with pytest.raises(DmaRefused) as refusal:
        do_list(bus, [(FIRST, 4), (BAR + 8, 2)], write=write)
    assert (refusal.value.reason, refusal.value.address) == (DmaReason.OWN_BAR, BAR + 8)
    assert rig.content == bytes(5 * PAGE)


def test_what_a_list_writes_is_logged_as_dirty(rig: ConnectedEndpoint) -> None:
    start = wire.DeviceFeature(24, FeatureFlag.SET | Feature.DMA_LOGGING_START).pack()
    rig.command(wire.Command.DEVICE_FEATURE, start + wire.LoggingControl(PAGE, 0, 0).pack())
    rig.endpoint.bus.write_list([(FIRST, b"x"), (FIRST + PAGE, b"y")])
    report = wire.DeviceFeature(40, FeatureFlag.GET | Feature.DMA_LOGGING_REPORT).pack()
    report += wire.LoggingReport(FIRST, 4 * PAGE, PAGE).pack()
    assert rig.command(wire.Command.DEVICE_FEATURE, report)[-8:] == b"\3" + bytes(7)


@pytest.mark.parametrize("write", [False, True])
def test_the_interconnect_is_asked_of_each(rig: ConnectedEndpoint, write: bool) -> None:
    asked: list[tuple[int, int]] = []

    def check(request: Request) -> Refusal | None:
        asked.append((request.address, request.length))
        denied = request.address == FIRST + 64
        return Refusal(DmaReason.PROTECTION_OUTSIDE, request.address) if denied else None

    bus = rig.endpoint.bus
    bus.interconnect.add_check(check)
    ranges = [(FIRST, 4), (FIRST + 64, 4), (FIRST + 128, 4)]
    with pytest.raises(DmaRefused) as refusal:
        do_list(bus, ranges, write=write)
    assert refusal.value.reason is DmaReason.PROTECTION_OUTSIDE
    assert asked == ranges[:2]
    assert [each.reason for each in bus.transactions] == [DmaReason.PROTECTION_OUTSIDE]
    assert rig.content == bytes(5 * PAGE)


def test_a_file_that_was_cut_is_not_followed() -> None:
    rig = ConnectedEndpoint(sealed=False)
    os.truncate(rig.memory, 3 * PAGE)
    with pytest.raises(DmaRefused) as refusal:
        rig.endpoint.bus.read_list([(FIRST, 4), (FIRST + PAGE, 4)])
    assert (refusal.value.reason, refusal.value.address) == (DmaReason.UNMAPPED, FIRST + PAGE)
    rig.close()


def test_the_history_of_a_long_list_is_bounded(rig: ConnectedEndpoint) -> None:
    ranges = [(FIRST + at, 1) for at in range(HISTORY + 10)]
    rig.endpoint.bus.read_list(ranges)
    kept = [(each.address, each.length) for each in rig.endpoint.bus.transactions]
    assert kept == ranges[10:]
