# SPDX-License-Identifier: Apache-2.0
"""Events as lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import dma_rehearsal.host_harness.timeline.events as events_module
from dma_rehearsal.host_harness.timeline import story
from dma_rehearsal.host_harness.timeline.events import Event
from dma_rehearsal.host_harness.timeline.timeline import Timeline
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import at, driver_map, driver_sync, driver_unmap
from tests.unit.host_harness.traces import of_platform, request


def lines(found: Timeline, width: int = 200) -> list[str]:
    """The story of all events, without times and runs of spaces."""
    told = story.story(found, found.events, zero_ns=0, width=width)
    return [" ".join(line.split()) for line in told]


def test_the_story_of_a_mapping(tmp_path: Path) -> None:
    refused = request(2, (0x1000, 8), reason="PROTECTION_OUTSIDE", byte=0x1000)
    runs.write_trace(
        tmp_path,
        [
            at(1, driver_map(), test=None),
            at(1.002, request(1, moved=64), test=None, snooped=False),
            at(1.003, runs.interrupt()),
            at(1.004, driver_sync()),
            at(1.005, driver_unmap()),
            at(1.006, refused, test=None),
        ],
    )
    runs.write_accesses(
        tmp_path,
        runs.named(0, "exerciser"),
        runs.register(0, 8, "GO", acts=True),
        runs.access(1.001, 8, 1),
        runs.access(1.0025, 0, 5, write=False, count=3),
    )
    assert lines(Timeline.of(tmp_path)) == [
        "+0.000 ms platform driver: dma_map_single/page IN: 64 bytes at 0x1000, called from "
        "0xffff0001 [buffer 1]",
        "+1.000 ms exerciser write GO = 0x1, and the device acts",
        "+2.000 ms exerciser DMA 1 writes 64 bytes at 0x1000, not snooped [buffer 1]",
        "+2.500 ms exerciser read BAR0 0x0 = 0x5 3 times, in 0.000 ms",
        "+3.000 ms exerciser interrupt MSI-X 3 sent",
        "+4.000 ms platform driver: dma_sync_single_for_cpu IN: 16 bytes from byte 0 on [buffer 1]",
        "+5.000 ms platform driver: dma_unmap_single/page [buffer 1]",
        "+6.000 ms exerciser DMA 2 writes 8 bytes at 0x1000: REFUSED: PROTECTION_OUTSIDE at "
        "0x1000 [buffer 1]",
    ]


def test_what_looks_alike_is_one_line(tmp_path: Path) -> None:
    alike = [at(each, request(each, (each << 12, 64), moved=64), test=None) for each in range(1, 6)]
    found = runs.timeline(tmp_path, *alike, at(6, request(6, (0x9000, 8), moved=8), test=None))
    assert lines(found) == [
        "+0.000 ms exerciser DMA 1 writes 64 bytes at 0x1000 (and 4 more like it, in 4000.000 ms)",
        "+5000.000 ms exerciser DMA 6 writes 8 bytes at 0x9000",
    ]


def test_a_refusal_is_never_among_what_looks_alike(tmp_path: Path) -> None:
    refused = [at(each, request(each, reason="ALIGNMENT", byte=1)) for each in range(1, 6)]
    told = lines(runs.timeline(tmp_path, *(each | {"test": None} for each in refused)))
    assert sum("REFUSED" in each for each in told) == 5


def test_a_narrow_terminal_wraps(tmp_path: Path) -> None:
    found = runs.timeline(tmp_path, at(1, driver_map(), test=None))
    told = list(story.story(found, found.events, zero_ns=0, width=60))
    assert len(told) > 1
    assert all(len(each) <= 64 for each in told)


def test_every_kind_of_event_has_words(tmp_path: Path) -> None:
    kinds = [
        each
        for each in vars(events_module).values()
        if isinstance(each, type) and issubclass(each, Event) and each is not Event
    ]
    assert len(kinds) >= 18
    assert all(get_type_hints(each) for each in kinds)
    assert [each for each in kinds if each not in story.words.registry] == []
    del tmp_path


def test_a_buffer_in_words(tmp_path: Path) -> None:
    found = runs.timeline(tmp_path, at(1, driver_map()), at(2, of_platform("attach")))
    assert story.buffer_in_words(found.buffer(1)) == (
        "buffer 1: mapping by dma_map_single/page IN, 64 bytes at 0x1000, 0.000 ms to the end"
    )
