# SPDX-License-Identifier: Apache-2.0
"""The report of a rehearsal: each test of a driver under each condition, and each finding once."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.verdict import driver_announcements, failed_report
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.host_view import HostView

CONDITIONS = (
    *("eager", "held", "noncoherent", "held-noncoherent", "merge", "bounce", "hostile"),
    "every-failure",
)
"""The conditions of a rehearsal, in the order of the table; a test's mark may have others."""
TEXT, FACTS = "rehearsal.txt", "rehearsal.json"
_FORMAT = 1
_PASSED, _FAILED, _SKIPPED, _XFAILED, _NOT_RUN = "passed", "FAILED", "skipped", "xfailed", "-"
_LOST = "LOST"  # the VM, or the verdict, was lost in this test
_STYLES = {_PASSED: "green", _FAILED: "bold red", _LOST: "bold red"}
_LINES_MAX = 25  # of a finding
_PLACE = re.compile(r"^(\S+\.py:\d+): ", re.MULTILINE)  # as pytest ends an entry of a traceback


@dataclass(slots=True)
class _Found:
    """A finding, and where it showed: tests by condition."""

    finding: DriverFinding
    shown: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class RehearsalReport:
    """Collects the results of a rehearsal. Of a test that binds no driver only a failure counts."""

    results: dict[str, dict[str, str]] = field(default_factory=dict)  # by test and condition
    _found: dict[tuple[str, ...], _Found] = field(default_factory=dict)

    def add(self, reports: Sequence[pytest.TestReport], host: HostView) -> None:
        """Take the reports of one test, as they are decided, and the host's view of it."""
        bound = driver_announcements.bindings(reports[-1].user_properties)
        name, verdict = reports[0].nodeid, _verdict(reports)
        condition: str | None = None
        if bound:
            condition = bound[0].condition.partition(", ")[0]
        elif verdict != _PASSED:  # it may have ended before it bound the driver
            condition = _named(name)
        if condition is not None:
            name = _without(name, condition)
        if condition is not None:
            self.results.setdefault(name, {})[condition] = verdict
        if verdict == _FAILED:
            for finding in (*host.facts, *_of_test(reports, host)):
                found = self._found.setdefault(finding.identity, _Found(finding))
                found.shown.setdefault(condition or "", []).append(name)

    def lose(self, nodeid: str) -> None:
        """Take note of the test in which the run lost its verdict, which `Run.error` tells."""
        if (condition := _named(nodeid)) is not None:
            self.results.setdefault(_without(nodeid, condition), {})[condition] = _LOST

    @property
    def conditions(self) -> list[str]:
        """The conditions of all tests, in order."""
        seen = {each for result in self.results.values() for each in result}
        return [
            *(each for each in CONDITIONS if each in seen),
            *sorted(seen - set(CONDITIONS)),
        ]

    def lines(self, width: int | None = None, *, colours: bool = False) -> list[str]:
        """Return the report for people: the table, then the findings.

        ``width`` is the most that a line of the table may have; None: what it needs.
        """
        found = ["rehearsal: no test with a driver has run"]
        if self.results:
            where, names = _short(list(self.results))
            rows = [
                [name, *(result.get(each, _NOT_RUN) for each in self.conditions)]
                for name, result in zip(names, self.results.values(), strict=True)
            ]
            styles = _STYLES if colours else None
            found = [f"rehearsal of {where}", ""]
            found += table.lines(["test", *self.conditions], rows, width=width, styles=styles)
        for number, each in enumerate(self._found.values(), 1):
            found += ["", *self._told(number, each)]
        return [*found, "", self._counted()] if self.results or self._found else found

    def facts(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        findings = [
            {**asdict(each.finding), "conditions": _conditions(each), "tests": _tests(each)}
            for each in self._found.values()
        ]
        return {
            "format": _FORMAT,
            "conditions": self.conditions,
            "tests": [{"test": name, "results": result} for name, result in self.results.items()],
            "findings": findings,
        }

    def write(self, folder: Path, status: int) -> None:
        """Write the report into a run's folder, as a text and as facts."""
        (folder / TEXT).write_text("\n".join(self.lines()) + "\n")
        facts = {**self.facts(), "status": status}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")

    def _told(self, number: int, each: _Found) -> list[str]:
        finding = each.finding
        lines = [line for line in finding.text.splitlines() if not line.startswith("  condition: ")]
        more = len(lines) - _LINES_MAX
        if more > 0:
            lines = [*lines[:_LINES_MAX], f"  ... {more} lines more in {FACTS}"]
        under = _conditions(each)
        if len(under) == len(self.conditions) > 1:
            under = ["every condition"]
        first, *others = lines
        told = [f"{number}. {first}", *(f"   {line}" for line in others)]
        told += [f"     under: {', '.join(under)}"] if under else []
        return [*told, f"     in: {', '.join(_tests(each))}"]

    def _counted(self) -> str:
        results = [each for result in self.results.values() for each in result.values()]
        passed = results.count(_PASSED)
        found = len(self._found)
        return (
            f"{_count(len(self.results), 'test')} under {_count(len(self.conditions), 'condition')}"
            f": {passed} of {len(results)} passed, {_count(found, 'finding')}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _short(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the file or folder that all tests are in, and their names without it."""
    files = {name.partition("::")[0] for name in names}
    if len(files) == 1:
        (where,) = files
        return where, [name.removeprefix(f"{where}::") for name in names]
    where = posixpath.commonpath([posixpath.dirname(file) for file in files])
    return where or ".", [name.removeprefix(f"{where}/") for name in names]


def _conditions(each: _Found) -> list[str]:
    return [name for name in each.shown if name]


def _tests(each: _Found) -> list[str]:
    return list(dict.fromkeys(name for names in each.shown.values() for name in names))


def _named(nodeid: str) -> str | None:
    """Return the condition that is in a test's name; None without one."""
    _, _, rest = nodeid.partition("[")
    # The longest first: "held-noncoherent" ends in the name of another.
    for condition in sorted(CONDITIONS, key=len, reverse=True):
        if re.search(rf"(?:^|-){condition}(?:-|$)", rest.removesuffix("]")):
            return condition
    return None


def _without(nodeid: str, condition: str) -> str:
    name, bracket, rest = nodeid.partition("[")
    if not bracket:
        return nodeid
    left = re.sub(rf"(?:^|-){re.escape(condition)}(?=-|$)", "", rest.removesuffix("]"), count=1)
    left = left.removeprefix("-")
    return f"{name}[{left}]" if left else name


def _verdict(reports: Sequence[pytest.TestReport]) -> str:
    if any(map(failed_report.failed_by_itself, reports)):
        return _FAILED
    if failed_report.xfailed(reports) is not None:
        return _XFAILED
    return _SKIPPED if any(each.skipped for each in reports) else _PASSED


def _of_test(reports: Sequence[pytest.TestReport], host: HostView) -> list[DriverFinding]:
    """Return the failures of the test itself, which the host's words do not tell."""
    found = []
    for report in filter(failed_report.failed_by_itself, reports):
        if isinstance(report.longrepr, failed_report.HostWords) and host.facts:
            continue
        text = report.longreprtext
        errors = [
            line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")
        ]
        what, *rest = errors or list(filter(None, text.splitlines())) or ["no message"]
        if errors and (places := _PLACE.findall(text)):
            rest.append(f"at {places[-1]}")
        lines = [f"the test failed: {what}", *(f"  {line}" for line in rest)]
        found.append(DriverFinding.of("", "", lines))
    return found
