# SPDX-License-Identifier: Apache-2.0
"""The verdict on each test of a run, written beside its artefacts, and how those of runs differ.

A test has the same verdict alone and in any order; otherwise one of its answers is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session.run import Rig

FILE = "verdicts.json"  # in a run's folder
DID_NOT_RUN = "did not run"
_TEST_MAX = 76  # characters of a test's name in a table; what tells tests apart is at its end


@dataclass(frozen=True, slots=True)
class Verdict:
    """A test's outcome, as pytest says it, and how many rows of each verdict a promise has."""

    outcome: str
    promises: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, promise: str) -> str:
        """Return what came of a promise, such as "kept x2, broken x1"; "-" without a row."""
        rows = sorted(self.promises.get(promise, {}).items())
        return ", ".join(f"{verdict} x{count}" for verdict, count in rows) or "-"


Verdicts = Mapping[str, Verdict]  # by node id


@dataclass(frozen=True, slots=True)
class Difference:
    """A test, or one of its promises, on which runs do not agree: what each says, by its name."""

    test: str
    promise: str
    said: Mapping[str, str]


class Recorder:
    """A plugin of pytest that writes the verdicts on the guest's tests into the run's folder."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
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
        """Write the file: the tests that were to run, and no report that is about something else.

        A test that did not run is not in it.
        """
        if self._rig.folder is None:
            return
        found = self.verdicts([item.nodeid for item in session.items])
        whole = {
            nodeid: {"outcome": each.outcome, "promises": each.promises}
            for nodeid, each in found.items()
        }
        (self._rig.folder / FILE).write_text(json.dumps(whole, indent=1) + "\n")

    def verdicts(self, nodeids: Collection[str]) -> dict[str, Verdict]:
        """Return the verdicts on those of these tests that ran."""
        rows: dict[str, dict[str, Counter[str]]] = {}
        for row in self._rig.ledger.promises:
            rows.setdefault(row.test, {}).setdefault(row.promise, Counter())[row.verdict] += 1
        return {
            nodeid: Verdict(self._outcomes[nodeid], rows.get(nodeid, {}))
            for nodeid in nodeids
            if nodeid in self._outcomes
        }


def read(folder: Path) -> dict[str, Verdict]:
    """Return the verdicts of the run in ``folder``; NoVerdict when it left none."""
    path = folder / FILE
    try:
        whole: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoVerdict("order", f"{path} cannot be read: {error}", f"look into {folder}") from None
    return {name: Verdict(each["outcome"], each["promises"]) for name, each in whole.items()}


def differences(
    runs: Mapping[str, Verdicts], parts: Mapping[str, Collection[str]]
) -> list[Difference]:
    """Return on what the runs do not agree, in the order of the first one's tests.

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


def table(found: Collection[Difference], runs: Collection[str]) -> str:
    """Return the differences for people, a row each; a run that has not the test has nothing."""
    rows = [("test", "promise", *runs)]
    for each in found:
        cut = len(each.test) > _TEST_MAX
        test = f"…{each.test[-_TEST_MAX + 1 :]}" if cut else each.test
        rows.append((test, each.promise, *(each.said.get(name, "") for name in runs)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
