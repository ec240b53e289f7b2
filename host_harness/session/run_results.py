# SPDX-License-Identifier: Apache-2.0
"""Collects what the formats tell of a run: each test's reports, and the reports about a driver."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.formats.run_result import (
    Case,
    Finding,
    Outcome,
    Place,
    RunResult,
    verdicts_of,
)
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.verdict import failed_report
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.promise import Promise

# As pytest ends an entry of a traceback, and as debug information names a line of a driver.
_PYTHON_PLACE = re.compile(r"^(\S+\.py):(\d+): ", re.MULTILINE)
_SOURCE_PLACE = re.compile(r" at ([^\s:]+\.[chS]):(\d+)")
_WORKSPACE = "GITHUB_WORKSPACE"
_PART = ", failed part "


@dataclass(slots=True)
class _Test:
    """What the reports of one test have told so far."""

    outcome: Outcome = Outcome.PASSED
    seconds: float = 0.0
    reason: str = ""
    texts: list[str] = field(default_factory=list)
    path: str = ""
    line: int | None = None
    properties: list[tuple[str, str]] = field(default_factory=list)
    findings: Sequence[DriverFinding] = ()


@dataclass(slots=True)
class RunResults:
    """The reports of a run, by test. ``began``: when, in seconds since 1970."""

    began: float = field(default_factory=time.time)
    _tests: dict[str, _Test] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """Take a report of pytest's. The outcome of a test is the worst of its phases."""
        nodeid = report.nodeid
        if failed_report.is_subtest(report):
            if not report.failed:
                return
            # pytest counts it beside its test, which fails by a report of its own.
            parts = sum(each.startswith(f"{nodeid}{_PART}") for each in self._tests)
            nodeid = f"{nodeid}{_PART}{parts + 1}"
        test = self._tests.setdefault(nodeid, _Test())
        if not test.path:
            path, line, _ = report.location
            test.path, test.line = str(path), None if line is None else line + 1
        test.seconds += max(0.0, report.duration)
        test.properties = [
            (str(name), str(value))
            for name, value in report.user_properties
            if isinstance(value, str | int | float)
        ]
        outcome = _outcome(report)
        if _RANKS.index(outcome) > _RANKS.index(test.outcome):
            test.outcome, test.reason = outcome, _reason(report)
        if report.failed:
            test.texts += [report.longreprtext, *_sections(report)]
            self._find_line(test, report.longreprtext)

    def add_findings(self, nodeid: str, findings: Sequence[DriverFinding]) -> None:
        """Take the reports about a driver in one test."""
        self._tests.setdefault(nodeid, _Test()).findings = findings

    def result(
        self,
        status: Status,
        promises: Iterable[Promise],
        facts: Mapping[str, str],
        *,
        reason: str,
        root: Path,
        where: str,
        sources: Sequence[str] = (),
    ) -> RunResult:
        """Return the run's result.

        Paths of tests start at ``root``, ``where`` is the folder or file of the tests below it, and
        ``sources`` are folders and files of drivers under test.
        """
        rows: dict[str, dict[str, Counter[str]]] = {}
        for row in promises:
            counts = rows.setdefault(row.test, {}).setdefault(row.promise, Counter())
            counts[f"{row.verdict} (xfail)" if row.xfail else row.verdict] += 1
        cases = [
            Case(
                nodeid,
                test.outcome,
                test.seconds,
                test.reason,
                "\n".join(filter(None, test.texts)),
                Place(_relative(root / test.path), test.line) if "::" in nodeid else None,
                {name: verdicts_of(counts) for name, counts in rows.get(nodeid, {}).items()},
                test.properties,
                [_finding(each, sources) for each in test.findings],
            )
            for nodeid, test in self._tests.items()
        ]
        return RunResult.of(
            status, cases, facts, reason=reason, where=_relative(root / where), began=self.began
        )

    @staticmethod
    def _find_line(test: _Test, text: str) -> None:
        """Take the line of the test's file at which the failure came, where there is one."""
        name = Path(test.path).name
        lines = [int(line) for path, line in _PYTHON_PLACE.findall(text) if Path(path).name == name]
        if lines:
            test.line = lines[-1]


_RANKS = (
    *(Outcome.PASSED, Outcome.XPASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.ERROR),
    Outcome.FAILED,
)
"""From the best to the worst: a test whose call and teardown failed has failed."""


def _outcome(report: pytest.TestReport) -> Outcome:
    if report.failed:
        return Outcome.FAILED if report.when == "call" else Outcome.ERROR
    if hasattr(report, "wasxfail"):
        return Outcome.XFAILED if report.skipped else Outcome.XPASSED
    return Outcome.SKIPPED if report.skipped else Outcome.PASSED


def _reason(report: pytest.TestReport) -> str:
    """Return the one line that tells why a test did not simply pass."""
    if (reason := getattr(report, "wasxfail", None)) is not None:
        return str(reason)
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return next(iter([*errors, *lines]), "")


def _sections(report: pytest.TestReport) -> list[str]:
    return [f"--- {title} ---\n{text}" for title, text in report.sections]


def _relative(path: Path) -> str:
    """Return a path from the root of the project, as a CI's reader wants it."""
    base = Path(os.environ.get(_WORKSPACE) or Path.cwd())
    path = Path(os.path.normpath(path.absolute()))
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _finding(found: DriverFinding, sources: Sequence[str]) -> Finding:
    named = _SOURCE_PLACE.search(f" {found.place}")
    place = Place(_source(named[1], sources), int(named[2])) if named else None
    return Finding(found.kind, found.what, found.text, place)


def _source(name: str, sources: Sequence[str]) -> str:
    """Return the path of a driver's source, where it is in a folder of a driver under test."""
    for each in map(Path, sources):
        folder = each if each.is_dir() else each.parent
        path = folder / name
        if path.is_file() and not Path(name).is_absolute():
            return _relative(path)
    return name
