# SPDX-License-Identifier: Apache-2.0
"""A driver's mappings in the trace: which one a byte is of, and what devices touched."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.verdict import driver_mappings
from dma_rehearsal.host_harness.verdict.driver_mappings import DriverMappings
from tests.unit.host_harness import traces
from tests.unit.host_harness.driver_traces import MAPPED_AT, TAG, UNMAPPED_AT, mapped, unmapped
from tests.unit.host_harness.traces import grant, request


def fed(*events: dict[str, object]) -> DriverMappings:
    found = DriverMappings()
    for each in events:
        found.feed(each)
    return found


def test_a_byte_is_of_the_mapping_in_force() -> None:
    found = fed(mapped(), mapped(TAG + 1, 0x2000), mapped(TAG + 2, 0x10_0000, 1 << 20))
    for byte, tag in ((0x1000, TAG), (0x103F, TAG), (0x2001, TAG + 1), (0x1F_FFFF, TAG + 2)):
        mapping = found.at(byte)
        assert mapping is not None
        assert mapping.tag == tag
    assert found.at(0x1040) is None
    assert found.at(0xFFF) is None


def test_an_ended_mapping_is_remembered_with_its_end() -> None:
    found = fed(mapped(), unmapped(), mapped(TAG + 1, 0x2000))
    mapping = found.at(0x1000)
    assert mapping is not None
    assert (mapping.callers, mapping.ended_callers) == ((MAPPED_AT,), (UNMAPPED_AT,))
    assert (mapping.ended, mapping.ended_by, found.operations) == (2, "UNMAP_PAGE", 3)
    assert found.of_owner(MAIL_OWNER_BASE | TAG) is mapping
    assert [each.tag for each in found.now()] == [TAG + 1]


def test_a_mapping_in_force_wins_over_an_ended_one_and_the_newest_of_those() -> None:
    found = fed(mapped(), unmapped(), mapped(TAG + 1), unmapped(TAG + 1))
    assert found.at(0x1000) is found.of_tag(TAG + 1)
    found.feed(mapped(TAG + 2, length=32))
    assert found.at(0x1000) is found.of_tag(TAG + 2)
    assert found.at(0x1020) is found.of_tag(TAG + 1)


def test_segments_and_parts_belong_to_their_mapping() -> None:
    owner = MAIL_OWNER_BASE | TAG
    found = fed(
        mapped(call="MAP_SG"),
        grant(0x5000, 128, owner=owner),
        mapped(TAG + 1, 0x9000, of=TAG, granted=False),
    )
    whole = found.of_tag(TAG)
    assert whole is not None
    assert whole.length == 192
    assert found.at(0x5001) is whole
    assert found.of_tag(TAG + 1) is whole
    assert found.operations == 2
    found.feed(unmapped(TAG + 1))
    assert not whole.ended
    found.feed(unmapped())
    assert whole.ended
    assert found.now() == []


def test_devices_touch_bytes_once_each_way() -> None:
    found = fed(
        mapped(length=64, direction="IN_OUT"),
        request(1, (0x1000, 32), moved=32),
        request(2, (0x1010, 32), moved=32),
        request(3, (0xFF0, 32), write=False, moved=32),
        request(4, (0x1000, 64), write=False, moved=0, reason="UNMAPPED"),
    )
    mapping = found.of_tag(TAG)
    assert mapping is not None
    assert mapping.moved(write=True) == 48
    assert mapping.moved(write=False) == 16
    assert mapping.requests == {True: 2, False: 1}


def test_a_cut_request_touches_what_it_moved() -> None:
    found = fed(mapped(), request(1, (0x1000, 32), (0x1020, 32), moved=40))
    mapping = found.of_tag(TAG)
    assert mapping is not None
    assert mapping.moved(write=True) == 40


def test_a_reset_of_the_platform_ends_all() -> None:
    found = fed(mapped(), traces.of_platform("reset"))
    assert found.now() == []
    assert found.at(0x1000) is None


def test_what_a_guest_can_grow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_mappings, "_LIVE_MAX", 3)
    monkeypatch.setattr(driver_mappings, "_UNION_AT", 4)
    monkeypatch.setattr(driver_mappings, "_UNION_MAX", 8)
    found = fed(*(mapped(TAG + each, 0x1000 * each + 0x1000, 4096) for each in range(5)))
    assert len(found.now()) == 3
    for each in range(100):
        found.feed(request(each, (0x1000 + 32 * each, 8), moved=8))
    mapping = found.of_tag(TAG)
    assert mapping is not None
    assert 8 * 8 <= mapping.moved(write=True) <= 9 * 8
    assert mapping.requests[True] == 100


def test_a_tag_that_is_mapped_again_names_the_new_mapping() -> None:
    found = fed(mapped(), mapped(address=0x7000))
    assert found.at(0x1000) is None
    assert found.at(0x7000) is found.of_tag(TAG)
