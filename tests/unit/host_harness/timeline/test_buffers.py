# SPDX-License-Identifier: Apache-2.0
"""Buffers: one lifetime each, though addresses and tags are used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.timeline.events import Dma, DriverCall
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import TAG, at, driver_map, driver_unmap
from tests.unit.host_harness.traces import facts, grant, of_platform, request


def withdraw(address: int = 0x1000, length: int = 64, **more: int) -> dict[str, Any]:
    return of_platform("withdraw", **facts(address, length, **more))


def test_a_mapping_lives_from_its_map_to_its_unmap(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, driver_map()),
        at(2, request(1, moved=64)),
        at(3, runs.driver_sync(offset=16)),
        at(4, driver_unmap()),
        at(5, request(2, moved=64)),
    )
    (buffer,) = found.buffers
    assert (buffer.kind, buffer.address, buffer.length) == ("mapping", 0x1000, 64)
    assert (buffer.begin_ns, buffer.end_ns) == (0, 3_000_000_000)
    about = [
        [each.number for each in found.buffers_of(event)]
        for event in found.select(kinds=(Dma, DriverCall))
    ]
    assert about == [[1], [1], [1], [1], []]
    sync = next(event for event in found.events if getattr(event, "action", "") == "sync")
    assert found.ranges_of(sync) == ((0x1010, 16),)


def test_an_address_and_a_tag_that_are_used_again_are_another_buffer(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, driver_map()),
        at(2, driver_unmap()),
        at(3, driver_map()),
        at(4, request(1, moved=64)),
    )
    first, second = found.buffers
    assert first.end is not None
    assert second.end is None
    (dma,) = found.select(kinds=Dma)
    assert found.buffers_of(dma) == (second,)
    assert list(found.select(kinds=Dma, buffer=first.number)) == []


def test_segments_and_parts_belong_to_their_mapping(tmp_path: Path) -> None:
    owner = MAIL_OWNER_BASE | TAG
    found = runs.timeline(
        tmp_path,
        at(1, driver_map(0x1000, 64)),
        at(2, grant(0x8000, 32, owner=owner, identity=2)),
        at(3, driver_map(0x1000, 64, tag=TAG + 1, of=hex(TAG))),
        at(4, driver_unmap(TAG + 1)),
        at(5, request(1, (0x8010, 8), moved=8)),
    )
    (buffer,) = found.buffers
    assert buffer.segments == [(0x1000, 64), (0x8000, 32)]
    assert buffer.end is None
    assert buffer.part(60, 8) == ((0x103C, 4), (0x8000, 4))
    (dma,) = found.select(kinds=Dma)
    assert found.buffers_of(dma) == (buffer,)


def test_a_grant_is_a_buffer_until_it_is_withdrawn(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, grant(0x1000, 64)),
        at(2, grant(0x2000, 64, identity=2)),
        at(3, withdraw()),
        at(4, of_platform("withdraw owner", owner="0x7", count=1)),
    )
    assert [(each.kind, each.end_ns) for each in found.buffers] == [
        ("grant", 2_000_000_000),
        ("grant", 3_000_000_000),
    ]


def test_a_refused_request_is_about_the_newest_buffer_that_was_there(tmp_path: Path) -> None:
    late = request(1, reason="PROTECTION_OUTSIDE", byte=0x1000)
    found = runs.timeline(
        tmp_path,
        at(1, driver_map(tag=TAG)),
        at(2, driver_unmap(TAG)),
        at(3, driver_map(tag=TAG + 1)),
        at(4, driver_unmap(TAG + 1)),
        at(5, late),
        at(6, request(2, moved=64)),
    )
    refused, moved = found.select(kinds=Dma)
    assert [each.number for each in found.buffers_of(refused)] == [2]
    assert found.buffers_of(moved) == ()


def test_a_reset_of_the_platform_ends_all(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, grant(0x1000, 64)),
        at(2, driver_map(0x4000)),
        at(3, of_platform("reset", kind="device reset")),
        at(4, request(1, moved=64)),
    )
    assert all(each.end_ns == 2_000_000_000 for each in found.buffers)
    (dma,) = found.select(kinds=Dma)
    assert found.buffers_of(dma) == ()


def tracked(tag: int, physical: int, length: int) -> dict[str, Any]:
    run = {"va": 1 << 40, "physical": physical, "length": length, "effective": "WB"}
    return of_platform("tracked", tag=tag, runs=[{**run, "page_size": 4096, "pat_index": 0}])


def cache(command: str, tag: int) -> dict[str, Any]:
    return of_platform("cache", command=command, tag=tag, offset=0, length=32)


def test_tracked_memory_is_a_buffer_beside_its_grant(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, tracked(5, 0x1000, 64)),
        at(2, grant(0x1000, 64)),
        at(3, request(1, moved=64)),
        at(4, cache("CLEAN", 5)),
        at(5, cache("UNTRACK", 5)),
        at(6, cache("CLEAN", 5)),
    )
    (dma,) = found.select(kinds=Dma)
    assert {each.kind for each in found.buffers_of(dma)} == {"tracked", "grant"}
    clean, untrack, after = (e for e in found.events if getattr(e, "command", ""))
    assert [each.kind for each in found.buffers_of(clean)] == ["tracked"]
    assert found.ranges_of(clean) == ((0x1000, 32),)
    assert found.buffers[0].end == untrack.index
    assert found.buffers_of(after) == ()


def test_behind_an_iommu_tracked_memory_is_not_where_requests_go(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"options": {"iommu": "intel"}}')
    found = runs.timeline(tmp_path, at(1, tracked(5, 0x1000, 64)), at(2, request(1, moved=64)))
    (dma,) = found.select(kinds=Dma)
    assert found.buffers_of(dma) == ()
    assert found.buffers[0].physical


def test_tracked_memory_is_the_buffers_own_part_of_its_pages(tmp_path: Path) -> None:
    event = tracked(5, 0x1000, 4096) | {"start": (1 << 40) + 16, "length": 32}
    found = runs.timeline(tmp_path, at(1, event))
    assert found.buffers[0].segments == [(0x1010, 32)]
