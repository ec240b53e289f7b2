# SPDX-License-Identifier: Apache-2.0
"""The device's side of a transfer: its buffer, of which many segments are mostly one range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from dma_rehearsal.device.endpoints.dma import Data
from dma_rehearsal.device.exerciser.transfer import Segment


def runs(places: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return the device's side of segments, as ranges [start, end) of its buffer, in order.

    Those that go on where the one before ends are one.
    """
    found: list[tuple[int, int]] = []
    start = end = places[0].offset
    for each in places:
        if each.offset != end:
            found.append((start, end))
            start = each.offset
        end = each.offset + each.length
    return [*found, (start, end)]


def copied(source: bytearray, places: Sequence[Segment]) -> tuple[bytes, list[Data]]:
    """Return what the device sends, copied once: all of it, and each segment's part."""
    with memoryview(source) as buffer:
        whole = b"".join([buffer[start:end] for start, end in runs(places)])
    if len(places) == 1:
        return whole, [whole]
    view, ends = memoryview(whole), [*accumulate(each.length for each in places)]
    return whole, [view[start:end] for start, end in pairwise([0, *ends])]


def stored(target: bytearray, places: Sequence[Segment], pieces: Iterable[bytes]) -> bytes:
    """Store what came for each segment; return all of it."""
    whole = b"".join(pieces)
    # By views: what a slice of a bytearray is given is copied once more.
    with memoryview(target) as buffer, memoryview(whole) as left:
        done = 0
        for start, end in runs(places):
            buffer[start:end] = left[done : done + end - start]
            done += end - start
    return whole
