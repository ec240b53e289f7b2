# SPDX-License-Identifier: Apache-2.0
"""The benchmarks that ``make bench`` runs: each a function that yields rows of one table.

    @benchmark("what it is about")
    def allocation() -> Iterator[Row]:
        yield Row("64 KiB", "12 us", compare(new, old), at_least(0.9))

A figure of one machine says little on another. So what matters is a ratio of two things measured in
turns within the same second, and only what has none is given as it is. What runs in this process
alone is measured in its CPU time, so that other processes count for little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Work = Callable[[], object]
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound: the figure is to be at least, or at most, ``bound``."""

    bound: float
    least: bool

    def __str__(self) -> str:
        return f"{'>=' if self.least else '<='} {self.bound:g}"

    def met(self, figure: float) -> bool:
        """Return whether a figure keeps to it."""
        return figure >= self.bound if self.least else figure <= self.bound


def at_least(bound: float) -> Goal:
    """Return a lower bound."""
    return Goal(bound, least=True)


def at_most(bound: float) -> Goal:
    """Return an upper bound."""
    return Goal(bound, least=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, how fast it was, the figure, and its goal."""

    what: str
    measured: str
    figure: float
    goal: Goal | None = None
    unit: str = "x"  # of the figure; a ratio by default


Benchmark = Callable[[], Iterator[Row]]
BENCHMARKS: dict[str, tuple[str, Benchmark]] = {}


def benchmark(title: str) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark under its function's name."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[function.__name__] = title, function
        return function

    return register


def seconds(work: Work, repeat: int = 1) -> float:
    """Return the CPU time that one of ``repeat`` calls took."""
    start = time.thread_time()
    for _ in range(repeat):
        work()
    return (time.thread_time() - start) / repeat


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of two things that were measured in turns, and the median of each turn's ratio."""

    ours: float
    theirs: float
    ratio: float  # theirs / ours: above 1 when ours is faster


def compare(ours: Work, theirs: Work, repeat: int = 1, rounds: int = ROUNDS) -> Comparison:
    """Measure two things in turns, after one of each that does not count."""
    ours()
    theirs()
    pairs = [(seconds(ours, repeat), seconds(theirs, repeat)) for _ in range(rounds)]
    return Comparison(
        statistics.median(own for own, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(other / own for own, other in pairs),
    )


def table(rows: list[Row]) -> str:
    """Return rows with aligned columns."""
    lines = [("", "measured", "figure", "goal", "")]
    for row in rows:
        met = "" if row.goal is None else "met" if row.goal.met(row.figure) else "MISSED"
        figure = (
            f"{row.figure:.2f} {row.unit}" if row.figure < 1000 else f"{row.figure:.0f} {row.unit}"
        )
        lines.append((row.what, row.measured, figure, str(row.goal or ""), met))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
