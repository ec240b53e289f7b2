# SPDX-License-Identifier: Apache-2.0
"""The life of a piece of memory as a picture: addresses from left to right, time downward.

The axis is not to scale: each address where something begins or ends has a line, and what lies
between two of them is as wide as the logarithm of its bytes. So a DMA that goes one byte past the
end of a grant is seen beside one of a megabyte.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.host_harness.run_page.markup import Html, element, plain
from dma_rehearsal.host_harness.run_page.moments import Moment, Range
from dma_rehearsal.host_harness.run_page.trace_story import Span, Story
from dma_rehearsal.host_harness.verdict.guest_buffers import Memory

TELLING = 50  # a region of this weight has a refusal, a report, or an address of the failure
_GAP = 1 << 20  # bytes between two pictures
_PICTURES = 3
_EDGES_MAX = 22
_ROWS_MAX = 36
_BUFFERS_MAX = 6
_SPANS_MAX = 8
_PAGES_MAX = 8  # of a picture, where all page boundaries are drawn
_WIDTH, _LEFT, _RIGHT = 1150, 380, 1080  # of the drawing; of the map within it
_ROW, _TOP, _BAND = 22, 92, 20
_WORDS = 54  # characters of a row's words


@dataclass(frozen=True, slots=True)
class Region:
    """Memory of one picture. ``first`` and ``last`` bytes; ``weight`` is what it is worth."""

    first: int
    last: int
    weight: int

    def has(self, ranges: Iterable[Range]) -> bool:
        """Whether a byte of ``ranges`` is in it."""
        return any(
            start <= self.last and self.first < start + max(size, 1) for start, size in ranges
        )


def regions(story: Story, memory: Sequence[Memory], mentioned: Sequence[int]) -> list[Region]:
    """Return the memory to draw, the most telling first.

    ``mentioned`` are addresses in the failure's own words.
    """
    found: list[tuple[int, int, int]] = []
    for _, moment in story.kept:
        weight = 100 if moment.red else 0
        found += [(start, start + max(size, 1) - 1, weight) for start, size in moment.ranges[:64]]
    known = {at for at in mentioned if any(a <= at <= b for a, b, _ in found) or _in(at, memory)}
    found += [(at, at, TELLING) for at in known]
    joined_: list[list[int]] = []
    for first, last, weight in sorted(found):
        if joined_ and first - joined_[-1][1] < _GAP:
            joined_[-1][1] = max(joined_[-1][1], last)
            joined_[-1][2] = min(10_000, joined_[-1][2] + weight)
        else:
            joined_.append([first, last, weight])
    ranked = sorted((Region(*each) for each in joined_), key=lambda each: -each.weight)
    return ranked[:_PICTURES]


def _in(at: int, memory: Sequence[Memory]) -> bool:
    return any(each.address <= at < each.address + each.length for each in memory)


def draw(region: Region, story: Story, memory: Sequence[Memory], number: str) -> Html:
    """Return the picture of a region; ``number`` makes its ids unique in the page."""
    rows = [(at, each) for at, each in story.kept if region.has(each.ranges)]
    left_out = max(0, len(rows) - _ROWS_MAX)
    if left_out:  # the refusals, and what came last
        reds = {at for at, each in rows if each.red}
        rest = [at for at, each in rows if at not in reds]
        room = set(sorted(reds)[:_ROWS_MAX]) | set(rest[-max(4, _ROWS_MAX - len(reds)) :])
        rows = [(at, each) for at, each in rows if at in room]
    buffers = _buffers(region, memory, rows)
    spans = [each for each in story.spans if region.has(each.moment.ranges)]
    spans = _telling(spans, rows)
    axis = _Axis(region, rows, buffers, spans)
    top = _TOP + _BAND * len(buffers)
    height = top + _ROW * max(1, len(rows)) + 12
    parts = [
        element("title", f"Memory map from {region.first:#x} to {region.last:#x}", id=f"t{number}"),
        *axis.grid(height),
        *(_buffer(axis, each, _TOP - 8 + _BAND * at) for at, each in enumerate(buffers)),
        *_spans(axis, spans, [at for at, _ in rows], top),
        *(
            _row(axis, each, top + _ROW * at, story.began, region)
            for at, (_, each) in enumerate(rows)
        ),
    ]
    picture = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {height}",
        width=_WIDTH,
        height=height,
        role="img",
        aria_labelledby=f"t{number}",
    )
    note = f" {left_out} rows are left out." if left_out else ""
    caption = element(
        "figcaption",
        f"{region.first:#x} to {region.last:#x}: addresses from left to right (not to scale), time "
        f"from top to bottom.{note}",
    )
    return element(
        "figure",
        caption,
        element("div", picture, class_="scroll", tabindex=0, role="group", aria_label="Memory map"),
    )


def _buffers(
    region: Region, memory: Sequence[Memory], rows: Sequence[tuple[int, Moment]]
) -> list[Memory]:
    """Return the buffers of a picture: those that were touched, and their neighbours."""
    touched = [range_ for _, each in rows for range_ in each.ranges]
    found = [each for each in memory if region.has([(each.address, each.length)])]
    near = [each for each in found if _meet([(each.address, each.length)], touched, PAGE)]
    own = [each for each in found if _meet([(each.address, each.length)], touched, 0)]
    ranked = sorted(own or near or found, key=lambda each: each.ago)
    return ranked[:_BUFFERS_MAX]


def _meet(some: Iterable[Range], others: Sequence[Range], margin: int) -> bool:
    """Whether ranges overlap, or are at most ``margin`` bytes apart."""
    return any(
        start < other + max(length, 1) + margin and other < start + size + margin
        for start, size in some
        for other, length in others
    )


def _telling(spans: list[Span], rows: Sequence[tuple[int, Moment]]) -> list[Span]:
    """Return the rights that the rows touch, the newest first, no more than there is room for."""
    touched = [range_ for _, each in rows for range_ in each.ranges]
    near = [each for each in spans if _meet(each.moment.ranges, touched, PAGE)]
    return near[-_SPANS_MAX:]


class _Axis:
    """Addresses to horizontal places."""

    def __init__(
        self,
        region: Region,
        rows: Sequence[tuple[int, Moment]],
        buffers: Sequence[Memory],
        spans: Sequence[Span],
    ) -> None:
        weights: dict[int, int] = {}

        def add(start: int, size: int, weight: int) -> None:
            for edge in (start, start + size):
                weights[edge] = weights.get(edge, 0) + weight

        for _, each in rows:
            for start, size in each.ranges[:64]:
                add(start, size, 60 if each.red else 4)
            if each.at_fault is not None and region.first <= each.at_fault <= region.last:
                add(each.at_fault, 0, 100)
        for buffer in buffers:
            add(buffer.address, buffer.length, 20)
        for span in spans:
            for start, size in span.moment.ranges[:16]:
                add(start, size, 10)
        chosen = sorted(weights, key=lambda edge: (-weights[edge], edge))[:_EDGES_MAX]
        low, high = min(weights, default=region.first), max(weights, default=region.last + 1)
        pages = range(low & -PAGE, high + PAGE, PAGE)
        self._pages = set(pages) if len(pages) <= _PAGES_MAX + 1 else {pages[0], pages[-1]}
        for _, each in rows:
            for start, size in each.ranges[:64]:
                inner = range(start & -PAGE, start + size + PAGE, PAGE)
                if len(inner) <= 4 and len(self._pages) < _EDGES_MAX:
                    self._pages.update(inner)
        self._edges = sorted({*chosen, low, high, *self._pages})
        self._named = {*chosen, low, high}
        sizes: list[float] = [
            12 + 6 * math.log2(after - edge)
            for edge, after in zip(self._edges, self._edges[1:], strict=False)
        ]
        scale = (_RIGHT - _LEFT) / (sum(sizes) or 1)
        self._places = [float(_LEFT)]
        for width in sizes:
            self._places.append(self._places[-1] + width * scale)

    def place(self, address: int) -> float:
        """Return where an address is, between two edges by proportion."""
        at = bisect_left(self._edges, address)
        if at == len(self._edges):
            return self._places[-1]
        if at == 0 or self._edges[at] == address:
            return self._places[at]
        low, high = self._edges[at - 1], self._edges[at]
        part = (address - low) / (high - low)
        return self._places[at - 1] + part * (self._places[at] - self._places[at - 1])

    def bar(self, start: int, size: int) -> tuple[float, float]:
        """Return the place and the width of a range."""
        left = self.place(start)
        return left, max(2.5, self.place(start + size) - left)

    def grid(self, height: int) -> list[Html]:
        """Return the lines of addresses, and their words where there is room."""
        found: list[Html] = []
        free = -100.0
        for edge, place in zip(self._edges, self._places, strict=True):
            page = edge % PAGE == 0
            x = f"{place:.1f}"
            found.append(
                element("line", x1=x, x2=x, y1=62, y2=height - 6, class_="page" if page else "edge")
            )
            if place - free >= 13 and (edge in self._named or page):
                free = place
                found.append(
                    element(
                        "text",
                        f"{edge:#x}",
                        transform=f"translate({place + 3:.1f} 60) rotate(-38)",
                        class_="address",
                    )
                )
        found.append(element("text", "page boundaries are solid lines", x=8, y=58, class_="hint"))
        return found


def _buffer(axis: _Axis, buffer: Memory, y: int) -> Html:
    left, width = axis.bar(buffer.address, buffer.length)
    way = buffer.direction.removeprefix("kIODirection")
    words = f"buffer {way} {buffer.length} bytes, {buffer.made}"
    gone = f", released at {buffer.released}" if buffer.released else ""
    whole = f"{buffer}{gone}"
    return element(
        "g",
        element("title", whole),
        element("text", _short(words), x=8, y=y + 10, class_="words"),
        element(
            "rect",
            x=f"{left:.1f}",
            y=y,
            width=f"{width:.1f}",
            height=13,
            class_="buffer gone" if buffer.released else "buffer",
        ),
    )


def _short(words: str) -> str:
    words = plain(words, 4 * _WORDS)
    return words if len(words) <= _WORDS else words[: _WORDS - 1] + "…"


def _spans(axis: _Axis, spans: Sequence[Span], rows: Sequence[int], top: int) -> list[Html]:
    """Draw rights and mappings as bands behind the rows, from their first to their last."""
    found = []
    for span in spans:
        first = top + _ROW * bisect_left(rows, span.first) - (4 if span.first < 0 else 0)
        last = len(rows) if span.last is None else min(len(rows), bisect_left(rows, span.last) + 1)
        bottom = max(first + 6, top + _ROW * last - (6 if span.last is not None else 0))
        kind = span.moment.opens.partition(" ")[0]
        for start, size in span.moment.ranges[:16]:
            left, width = axis.bar(start, size)
            found.append(
                element(
                    "rect",
                    element("title", span.moment.what),
                    x=f"{left:.1f}",
                    y=first,
                    width=f"{width:.1f}",
                    height=bottom - first,
                    class_=f"span {kind}",
                )
            )
    return found


def _row(axis: _Axis, moment: Moment, y: int, began: float, region: Region) -> Html:
    kind: str = moment.mood
    if moment.write is not None and kind == "moved":
        kind = "write" if moment.write else "read"
    words = f"{1000 * (moment.time - began):.1f} ms  {moment.who}: {moment.label or moment.what}"
    parts = [
        element("title", moment.what),
        element("text", _short(words), x=8, y=y + 14, class_=f"words {kind}"),
    ]
    for start, size in moment.ranges[:64] if kind != "right" else ():
        left, width = axis.bar(start, size)
        parts.append(
            element(
                "rect",
                x=f"{left:.1f}",
                y=y + 5,
                width=f"{width:.1f}",
                height=12,
                class_=f"bar {kind}",
            )
        )
    if moment.at_fault is not None and region.first <= moment.at_fault <= region.last + 1:
        at = axis.place(moment.at_fault)
        parts.append(element("path", d=f"M{at:.1f} {y + 2} l5 8 l-5 8 l-5 -8 z", class_="at-fault"))
    return element("g", *parts)
