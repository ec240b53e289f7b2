"""The ledger of promises: what was asked, what the device attested, and the verdict.

A promise is kept, broken, unattested or unsupported. Broken fails the run. So do unattested and
unsupported, unless they stand in the reviewed list. Kept is more than the guest's word: in a test
in which no device did anything, nothing can have been attested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from . import cache_table
from .reviewed import OWN, Reviewed
from .run_folder import printable

VERDICTS = ("kept", "broken", "unattested", "unsupported")
HOST = "host"  # a row's "agreed by" may name it only when the host was asked
UNASKED = "the host is said to have agreed, and was not asked during this test"
AFTER = "after the last test"  # stands where a row is no test's
UNSEEN = "no device saw it: neither a DMA, an interrupt nor a walk during this test"
HOST_SAW = "what the host saw"  # stands where a test has no promise that the host could refute
_WIDTHS = (33, 38, 52)


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of attestations.json. ``facts`` are what other tables show of it."""

    promise: str
    asked: str
    attested: str
    verdict: str
    reason: str
    test: str
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Ledger:
    """Collects promises from test reports, and counts the tests."""

    promises: list[Promise] = field(default_factory=list)
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    reviewed: Reviewed = field(default_factory=lambda: Reviewed.load(OWN))

    def add_report(
        self,
        report: pytest.TestReport,
        marked: Sequence[str],
        *,
        seen: bool = True,
        evidence: Sequence[str] = (),
        objection: str = "",
        witnessed: bool = True,
    ) -> None:
        """Take the promises of one phase's report.

        ``marked`` are the promises that the test says it is about. One of them that a test did not
        attest is broken when the test failed, else unattested: silence is never a yes. ``seen`` is
        whether a device did anything during the test, ``witnessed`` whether the host looked at the
        guest's page tables for it, ``evidence`` what the host adds to what was attested, and
        ``objection`` what it has against the test: nothing is kept then.
        """
        if report.failed:
            self.failures.append(report.nodeid)
        if report.when == "teardown":
            if report.failed:
                self.failed += 1
                self._mark(report, marked, "broken", _first_line(report))
            return
        if report.when == "setup" and report.passed:
            return
        recorded = [value for name, value in report.user_properties if name == "promise"]
        rows = [_checked(value, report.nodeid) for value in recorded]
        if not seen:
            rows = [_unattested(row, UNSEEN) for row in rows]
        if not witnessed:
            rows = [_unattested(row, UNASKED) if _names_host(row) else row for row in rows]
        rows = [replace(row, attested="; ".join([row.attested, *evidence])) for row in rows]
        if objection:
            rows = [_refuted(row, objection) for row in rows]
            if not any(row.verdict == "broken" for row in rows):
                rows.append(Promise(HOST_SAW, "", "", "broken", objection, report.nodeid))
        self.promises += rows
        if report.failed:
            self.failed += 1
            if not any(row.verdict == "broken" for row in rows):
                self._mark(report, marked, "broken", _first_line(report))
        elif report.passed:
            self.passed += 1
            silent = [name for name in marked if name not in {row.promise for row in rows}]
            self._mark(report, silent, "unattested", "the test passed without attesting it")
        else:
            self.skipped += 1
            self._mark(report, marked, "unattested", f"skipped: {_first_line(report)}")

    def object(self, promise: str, reason: str) -> None:
        """Fail the run for something that is no test's."""
        self.promises.append(Promise(promise, "", "", "broken", reason, AFTER))

    def arrange(self, nodeids: Sequence[str]) -> None:
        """Bring the promises and failures into the order of the tests, in which they are shown."""
        places = {nodeid: place for place, nodeid in enumerate(nodeids)}
        self.promises.sort(key=lambda row: places.get(row.test, len(places)))
        self.failures.sort(key=lambda nodeid: places.get(nodeid, len(places)))

    def _mark(
        self, report: pytest.TestReport, names: Sequence[str], verdict: str, reason: str
    ) -> None:
        self.promises += [Promise(name, "", "", verdict, reason, report.nodeid) for name in names]

    def objections(self) -> list[Promise]:
        """Return the rows that fail the run: broken, or neither kept nor in the reviewed list."""
        return [row for row in self.promises if row.verdict != "kept" and not self._excused(row)]

    def silent_objections(self) -> list[Promise]:
        """Return those of the objections whose test did not fail."""
        failed = set(self.failures)
        return [row for row in self.objections() if row.test not in failed]

    def _excused(self, row: Promise) -> bool:
        return (
            row.verdict == "unattested" and (row.promise, row.reason) in self.reviewed.unattested
        ) or (
            row.verdict == "unsupported" and (row.promise, row.asked) in self.reviewed.unsupported
        )

    def complaints(self) -> list[str]:
        """Return one line for each promise that fails the run: its first row, and how many more."""
        groups: dict[tuple[str, str], list[Promise]] = {}
        for row in self.objections():
            groups.setdefault((row.promise, row.verdict), []).append(row)
        lines = []
        for (promise, verdict), rows in groups.items():
            first = max(rows, key=lambda row: bool(row.asked))
            asked = f" (asked: {first.asked})" if first.asked else ""
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"{verdict}: {promise}{asked}: {first.reason}  [{first.test}{more}]")
        return lines

    def to_repeat(self) -> list[str]:
        """Return the node ids of the tests that failed or broke a promise, in their order."""
        tests = [row.test for row in self.objections() if row.test != AFTER]
        return list(dict.fromkeys([*self.failures, *tests]))

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Write attestations.json: ``facts`` of the run, the counts and every promise."""
        whole = {
            **facts,
            "passed": self.passed,
            "failed": self.failed,
            "skipped": self.skipped,
            "promises": [asdict(row) for row in self.promises],
        }
        path.write_text(json.dumps(whole, indent=1) + "\n")

    def table(self) -> str:
        """Return the table for people: one row for each promise and verdict, the worst first.

        Of several rows it shows those of the test that has most: what was asked first and last, and
        what was attested last.
        """
        groups: dict[tuple[str, str], list[Promise]] = {}
        for row in self.promises:
            groups.setdefault((row.promise, row.verdict), []).append(row)
        lines = [_row("promise", "asked", "attested by the device", "verdict")]
        lines.append("-" * len(lines[0]))
        worst_first = ("broken", "unattested", "kept", "unsupported")
        for verdict in worst_first:
            for (promise, each), rows in groups.items():
                if each == verdict:
                    count = f" x{len(rows)}" if len(rows) > 1 else ""
                    shown = _of_one_test(rows)
                    asked = _span([row.asked for row in shown])
                    attested = shown[-1].attested or shown[-1].reason
                    lines.append(_row(promise, asked, attested, f"{verdict}{count}"))
        accepted = sorted(
            {
                (row.promise, row.reason)
                for row in self.promises
                if row.verdict == "unattested" and self._excused(row)
            }
        )
        if accepted:
            lines += ["", "unattested, by the reviewed list:"]
            lines += [f"  {promise}: {reason}" for promise, reason in accepted]
        if modes := cache_table.lines(self.promises):
            lines += ["", *modes]
        return "\n".join(lines)


def _checked(value: object, test: str) -> Promise:
    """Return a row from what the guest recorded; anything malformed is a broken promise."""
    if not isinstance(value, dict) or value.get("verdict") not in VERDICTS:
        return Promise("report", "", "", "broken", f"malformed record {value!r}"[:200], test)
    words = {
        name: printable(str(value.get(name, "")))
        for name in ("promise", "asked", "attested", "verdict", "reason")
    }
    facts = value.get("facts") or {}
    if not isinstance(facts, dict):
        return Promise("report", "", "", "broken", f"malformed facts {facts!r}"[:200], test)
    shown = {printable(str(name)): printable(str(text)) for name, text in facts.items()}
    return Promise(test=test, facts=shown, **words)


def _unattested(row: Promise, reason: str) -> Promise:
    return replace(row, verdict="unattested", reason=reason) if row.verdict == "kept" else row


def _names_host(row: Promise) -> bool:
    return HOST in row.facts.get(cache_table.AGREED, "").split(", ")


def _refuted(row: Promise, objection: str) -> Promise:
    return replace(row, verdict="broken", reason=objection) if row.verdict == "kept" else row


def _first_line(report: pytest.TestReport) -> str:
    """Return the line that tells a failure or a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no message"])[0]


def _of_one_test(rows: list[Promise]) -> list[Promise]:
    """Return the rows of the test function that has most of them: they are alike."""
    groups: dict[str, list[Promise]] = {}
    for row in rows:
        groups.setdefault(row.test.partition("[")[0], []).append(row)
    return max(groups.values(), key=len)


def _span(texts: list[str]) -> str:
    """Return the one text, or the first and the last of several."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if not distinct:
        return ""
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} .. {distinct[-1]}"


def _row(promise: str, asked: str, attested: str, verdict: str) -> str:
    cells = [
        text if len(text) <= width else text[: width - 1] + "…"
        for text, width in zip((promise, asked, attested), _WIDTHS, strict=True)
    ]
    padded = (cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return " | ".join([*padded, verdict.ljust(12)]).rstrip()
