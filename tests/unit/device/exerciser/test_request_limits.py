# SPDX-License-Identifier: Apache-2.0
"""A device that knows nothing of profiles is held to the limits of one, by each way of its bus."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import AtomicOps, DmaRefused, Endpoint, Identity
from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.request_limits import RequestLimits
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, answer, start

PAGE = 4096


class Engine(Endpoint):
    """Does DMA, and has no register."""

    identity = Identity(0x1234, 1, 0x120000)
    capabilities: ClassVar = (AtomicOps(),)


def engine(trace: Trace | None = None, **limits: object) -> Engine:
    """Return one that memory is mapped for, held to ``limits``."""
    made = Engine(trace or Trace())
    made.attach(FakeClient())
    start(made)
    made.bus.limits = RequestLimits(profile.parse(limits, "mine")).check
    return made


@pytest.mark.parametrize(
    ("limits", "right", "wrong", "reason"),
    [
        ({"address_bits": 32}, [(BASE, 8)], [(1 << 32, 8)], DmaReason.ADDRESS_BITS),
        ({"alignment": 8}, [(BASE + 8, 3)], [(BASE, 8), (BASE + 4, 8)], DmaReason.ALIGNMENT),
        ({"length_alignment": 4}, [(BASE + 1, 8)], [(BASE, 6)], DmaReason.LENGTH_ALIGNMENT),
        ({"max_segment": 16}, [(BASE, 16), (BASE, 16)], [(BASE, 17)], DmaReason.MAX_SEGMENT),
        ({"boundary": 4096}, [(BASE, 4096)], [(BASE + 4090, 8)], DmaReason.BOUNDARY),
        ({"max_segments": 1}, [(BASE, 64)], [(BASE, 4), (BASE, 4)], DmaReason.MAX_SEGMENTS),
        ({"max_transfer": 64}, [(BASE, 64)], [(BASE, 60), (BASE, 8)], DmaReason.MAX_TRANSFER),
        (
            {"rule": "prp", "boundary": 4096, "alignment": 4},
            [(BASE + PAGE - 8, 8), (BASE, PAGE), (BASE, 12)],
            [(BASE, PAGE), (BASE + 4, 8)],
            DmaReason.PRP,
        ),
    ],
)
def test_each_limit_holds_for_each_way_of_the_bus(
    tmp_path: Path,
    limits: dict[str, object],
    right: list[tuple[int, int]],
    wrong: list[tuple[int, int]],
    reason: DmaReason,
) -> None:
    ended: list[Any] = []
    ways: list[Callable[[Engine, list[tuple[int, int]]], object]] = [
        lambda made, ranges: made.bus.read_list(ranges),
        lambda made, ranges: made.bus.write_list([(at, bytes(size)) for at, size in ranges]),
        lambda made, ranges: made.bus.read_list_async(ranges, ended.append),
        lambda made, ranges: made.bus.write_list_async(
            [(at, bytes(size)) for at, size in ranges], ended.append
        ),
    ]
    with closing(Trace(tmp_path / "trace")) as trace:
        made = engine(trace, **limits)
        for way in ways:
            way(made, right)
            answer(made)
        assert not any(isinstance(each, DmaRefused) for each in ended)
        for way in ways[:2]:
            with pytest.raises(DmaRefused) as refused:
                way(made, wrong)
            assert refused.value.reason is reason
        for way in ways[2:]:
            ended.clear()
            way(made, wrong)
            answer(made)
            assert [each.reason for each in ended] == [reason]
    events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    requests = [each for each in events if each["event"] == "request"]
    assert [each["reason"] for each in requests] == ["NONE"] * 4 + [reason.name] * 4
    assert [each["moved"] for each in requests[4:]] == [0] * 4
    assert requests[4]["ranges"] == [[hex(at), size] for at, size in wrong]


def test_an_atomic_op_keeps_the_limits() -> None:
    made = engine(address_bits=24)
    with pytest.raises(DmaRefused, match="ADDRESS_BITS"):
        made.bus.fetch_add(1 << 24, 1)


def test_a_list_of_nothing_breaks_no_limit() -> None:
    made = engine(alignment=8, max_segments=1)
    assert made.bus.read_list([]) == []


@pytest.mark.parametrize("values", [{"sloppy": True, "address_bits": 24}, {"coherent": False}])
def test_what_only_the_model_itself_can_do_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="profile mine is"):
        RequestLimits(profile.parse(values, "mine"))
