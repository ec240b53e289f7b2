# SPDX-License-Identifier: Apache-2.0
"""The verdicts on the tests of a run, as a file of its folder, and the differences between runs.

A test has the same verdict alone and in any order; otherwise one of the verdicts is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.verdict.documents import reading
from dma_rehearsal.host_harness.verdict.documents.document import VERDICTS

FILE = VERDICTS.file
DID_NOT_RUN = "did not run"
_TEST_MAX = 76  # characters of a test's name in a table; the end of a name distinguishes tests


@dataclass(frozen=True, slots=True)
class Verdict:
    """A test's outcome, as pytest says it, and how many rows of each verdict a promise has."""

    outcome: str
    promises: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, promise: str) -> str:
        """Return the verdicts on a promise, such as "kept x2, broken x1"; "-" without a row."""
        rows = sorted(self.promises.get(promise, {}).items())
        return ", ".join(f"{verdict} x{count}" for verdict, count in rows) or "-"


Verdicts = Mapping[str, Verdict]  # by node id


@dataclass(frozen=True, slots=True)
class Difference:
    """A test, or one of its promises, on which runs disagree, and each run's verdict."""

    test: str
    promise: str
    said: Mapping[str, str]


class Recorder:
    """A plugin of pytest that writes the verdicts on the guest's tests into the run's folder."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a report adds to the outcome of its test: the worst of its phases."""
        known = self._outcomes.get(report.nodeid, "passed")
        if report.failed:
            known = "failed"
        elif known != "failed" and report.skipped:
            known = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        elif known == "passed" and hasattr(report, "wasxfail"):
            known = "xpassed"
        self._outcomes[report.nodeid] = known

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file. It has the session's tests that ran, and no other reports."""
        if self._run.folder is None:
            return
        found = self.verdicts([item.nodeid for item in session.items])
        tests = {
            nodeid: {"outcome": each.outcome, "promises": each.promises}
            for nodeid, each in found.items()
        }
        whole = {**VERDICTS.header, "tests": tests}
        (self._run.folder / FILE).write_text(json.dumps(whole, indent=1) + "\n")

    def verdicts(self, nodeids: Collection[str]) -> dict[str, Verdict]:
        """Return the verdicts on those of these tests that ran."""
        rows: dict[str, dict[str, Counter[str]]] = {}
        for row in self._run.ledger.promises:
            rows.setdefault(row.test, {}).setdefault(row.promise, Counter())[row.verdict] += 1
        return {
            nodeid: Verdict(self._outcomes[nodeid], rows.get(nodeid, {}))
            for nodeid in nodeids
            if nodeid in self._outcomes
        }


def read(folder: Path) -> dict[str, Verdict]:
    """Return the verdicts of the run in ``folder``; NoVerdict when it left none."""
    try:
        whole = reading.read(folder / FILE, VERDICTS)
    except reading.DocumentError as error:
        words = f"the verdicts cannot be read: {error.args[0]}"
        raise NoVerdict("order", words, f"look into {folder}") from None
    tests = whole["tests"]
    return {name: Verdict(each["outcome"], each["promises"]) for name, each in tests.items()}


def differences(
    runs: Mapping[str, Verdicts], parts: Mapping[str, Collection[str]]
) -> list[Difference]:
    """Return the differences between runs, in the order of the first run's tests.

    ``parts`` names, for runs of a part of the tests, which ones those are.
    """
    found = []
    for nodeid in dict.fromkeys(name for verdicts in runs.values() for name in verdicts):
        said = {
            name: verdicts.get(nodeid)
            for name, verdicts in runs.items()
            if name not in parts or nodeid in parts[name]
        }
        outcomes = {name: each.outcome if each else DID_NOT_RUN for name, each in said.items()}
        if len(set(outcomes.values())) > 1:
            found.append(Difference(nodeid, "", outcomes))
        ran = {name: each for name, each in said.items() if each}
        for promise in dict.fromkeys(p for each in ran.values() for p in each.promises):
            rows = {name: each.of(promise) for name, each in ran.items()}
            if len(set(rows.values())) > 1:
                found.append(Difference(nodeid, promise, rows))
    return found


def difference_table(found: Collection[Difference], runs: Collection[str]) -> str:
    """Return the differences as a table, a row each; a cell is empty for a run without the test."""
    rows = []
    for each in found:
        cut = len(each.test) > _TEST_MAX
        test = f"…{each.test[-_TEST_MAX + 1 :]}" if cut else each.test
        rows.append((test, each.promise, *(each.said.get(name, "") for name in runs)))
    return "\n".join(table.lines(("test", "promise", *runs), rows))
