# SPDX-License-Identifier: Apache-2.0
"""A failure in four parts, for the last screen of a run: the test, where, why, and what next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.screen import HEIGHT, Screen
from dma_rehearsal.host_harness.verdict import failed_report

# The status, make's own error and the shell's prompt come below what is printed here.
_BELOW = 3
_AROUND = 3  # empty lines, and the one that says how many more there are
_LINES_MIN = 5  # of failures, however much else there is
_WHY_MAX, _NEXT_MAX = 3, 2  # lines
_SHOWN_MAX = 5  # failures; more than a few are counted
_NEXT = "  next: "
# A driver's line in the host's words, and the test's line where a buffer was made.
_DRIVER_PLACE = re.compile(r" (?:by|in) (\S+ at [^\s,:]+:\d+)")
_MADE_AT = re.compile(r"made at ([^\s,>]+:\d+)")
_STYLE = "bold red"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed test, or what failed the run after its tests. Empty parts are not known."""

    test: str
    where: str
    why: str
    next: str = ""


def of_test(report: pytest.TestReport, objections: Sequence[str] = ()) -> Failure:
    """Return the failure of a test by its failed report, and the host's objections to it."""
    path, line, _ = report.location
    at = f"{path}:{(line or 0) + 1}"
    if objections:
        why, *rest = objections[0].splitlines()
        where = ", ".join(filter(None, (at, _place(objections[0]))))
        return Failure(report.nodeid, where, why, _labelled(rest, _NEXT))
    text = report.longreprtext
    return Failure(
        report.nodeid, _crash(report) or at, reason(report), _labelled(text.splitlines(), _NEXT)
    )


def of_run(name: str, text: str) -> Failure:
    """Return a failure that belongs to no test; the first line of ``text`` says why."""
    why, *rest = text.splitlines() or [""]
    return Failure(name, _place(text), why, _labelled(rest, _NEXT))


def reason(report: pytest.TestReport) -> str:
    """Return the line that explains a failure or a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no message"])[0]


def lines(failures: Sequence[Failure], screen: Screen, tail: Sequence[str]) -> list[str]:
    """Return the first failures, so that they and ``tail``, which follows, fit on a small screen.

    At least the first one is shown; of the others, how many there are.
    """
    if not failures:
        return []
    below = sum(rows(line, screen.width) for line in tail) + _BELOW
    room = max(_LINES_MIN, HEIGHT - below - _AROUND)
    found: list[str] = []
    shown = 0
    for each in failures[:_SHOWN_MAX]:
        told = _told(each, screen, room - len(found) if not shown else room)
        if shown and len(found) + len(told) > room:
            break
        found += told
        shown += 1
    more = len(failures) - shown
    return ["", *found, *([f"and {more} more failed, above"] if more else []), ""]


def rows(line: str, width: int) -> int:
    """Return how many lines of a terminal a line takes."""
    return max(1, -(-table.cells(line) // width))


def _told(each: Failure, screen: Screen, room: int) -> list[str]:
    style = _STYLE if screen.colours else ""
    found = [*table.wrapped(f"FAILED {each.test}", screen.width, rest="  ", style=style)[:2]]
    if each.where:
        found += table.wrapped(each.where, screen.width, first="  where: ", rest="    ")[:1]
    last = _part(each.next, _NEXT, _NEXT_MAX, screen.width)
    why = min(_WHY_MAX, max(1, room - len(found) - len(last)))
    return [*found, *_part(each.why, "  why: ", why, screen.width), *last]


def _part(text: str, label: str, limit: int, width: int) -> list[str]:
    """Return a text in at most ``limit`` lines; the last one says when there is more."""
    if not text:
        return []
    found = table.wrapped(text, width, first=label, rest="    ")
    if len(found) <= limit:
        return found
    return [*found[: limit - 1], f"{table.cut(found[limit - 1], width - 1).removesuffix('…')}…"]


def _place(objection: str) -> str:
    """Return the line of the driver or of the test that the host's words name first."""
    found = _DRIVER_PLACE.search(objection) or _MADE_AT.search(objection)
    if found is None:
        return ""
    return found[1] if found.re is _DRIVER_PLACE else f"buffer made at {found[1]}"


def _crash(report: pytest.TestReport) -> str:
    """Return the last line of the test's own file in a traceback, and that of the error."""
    if isinstance(report.longrepr, failed_report.HostWords):
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return ""
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", ())
    places = [each.reprfileloc for each in entries if getattr(each, "reprfileloc", None)]
    own = [each for each in places if str(each.path).endswith(report.location[0])]
    ends = f"{crash.path}:{crash.lineno}"
    if not own or f"{own[-1].path}:{own[-1].lineno}" == ends:
        return ends
    return f"{own[-1].path}:{own[-1].lineno}, in a call that failed at {ends}"


def _labelled(lines: Sequence[str], label: str) -> str:
    return next((line.removeprefix(label) for line in lines if line.startswith(label)), "")
