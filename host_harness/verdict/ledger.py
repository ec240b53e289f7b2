# SPDX-License-Identifier: Apache-2.0
"""The ledger of promises: what was asked, what the device attested, and the verdict.

A promise is kept, broken, unattested or unsupported. Broken fails the run. So do unattested and
unsupported, unless the list of known gaps has them. Kept is more than the guest's word: where a
test decides, the device's trace must have the kind of evidence that the test names, and the host
alone judges what a test claims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.process.screen import WIDTH
from dma_rehearsal.host_harness.verdict import (
    cache_mode_table,
    failed_report,
    failure,
    promise_table,
)
from dma_rehearsal.host_harness.verdict.claims import PROPERTY as CLAIM
from dma_rehearsal.host_harness.verdict.documents.document import ATTESTATIONS
from dma_rehearsal.host_harness.verdict.failure import Failure
from dma_rehearsal.host_harness.verdict.host_view import (
    NOTHING_SEEN,
    HostView,
)
from dma_rehearsal.host_harness.verdict.known_gaps import OWN, KnownGaps
from dma_rehearsal.host_harness.verdict.promise import BY_TEST, Promise

VERDICTS = ("kept", "broken", "unattested", "unsupported")
HOST = "host"  # a row's "agreed by" may name it only when the host was asked
UNASKED = "the test says that the host agreed, but did not ask the host"
AFTER = "after the last test"  # in place of a test's name, for a row that no test owns
HOST_SAW = "what the host saw"  # the promise of a row where a test has none to refute


def status_of(report: pytest.TestReport) -> str:
    """Return the name under which pytest counts a report, without any plugin; "": it does not."""
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if failed_report.is_subtest(report):
        return ""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome if report.skipped or report.when == "call" else ""


# pytest's names for the outcomes that are counted here, and the names of the counts.
_CATEGORIES = {
    **{name: name for name in ("passed", "failed", "skipped", "xfailed", "xpassed")},
    "error": "errors",
}


@dataclass(slots=True)
class Ledger:
    """Collects promises from the tests' reports, and counts as pytest does.

    ``errors`` are setups and teardowns that failed; ``status`` says how a report is counted.
    ``failures`` are node ids, and ``told`` has what is known of them and of other failures.
    ``notes`` are what a reader of the table must know; each is shown once.
    """

    promises: list[Promise] = field(default_factory=list)
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    xfailed: int = 0
    xpassed: int = 0
    failures: list[str] = field(default_factory=list)
    told: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known_gaps: KnownGaps = field(default_factory=lambda: KnownGaps.load(OWN))
    status: Callable[[pytest.TestReport], str] = status_of

    def add_test(
        self,
        reports: Sequence[pytest.TestReport],
        marked: Sequence[str] = (),
        host: HostView = NOTHING_SEEN,
    ) -> list[Promise]:
        """Take all reports of one test, fail them where ``host`` objects to it; return its rows.

        ``marked`` are the promises that the test is marked with. One that the test did not attest
        is broken when the test failed, else unattested: silence is never a yes. When the host
        objects to a test, none of its promises is kept. A row that fails the run fails the test's
        report, so that all counts agree.
        """
        failed_report.joined(reports)
        if host.objections:
            failed_report.objected(reports, "\n".join(host.objections))
        nodeid = reports[0].nodeid
        failed = next(filter(failed_report.failed_by_itself, reports), None)
        rows = [*self._rows(reports[-1], host), *host.rows]
        if host.objections:
            why = host.objections[0].partition("\n")[0]
            rows = [_refuted(row, why) for row in rows]
            if not any(row.verdict == "broken" for row in rows):
                rows.append(Promise(HOST_SAW, "", "", "broken", why, nodeid))
        rows += _silent(rows, marked, reports, failed)
        xfailed = failed_report.xfailed(reports)
        if failed is None and xfailed is None and (wrong := list(filter(self._objects, rows))):
            failed_report.objected(reports, "\n".join(map(_told, wrong)))
            xfailed = failed_report.xfailed(reports)
        failed_report.joined(reports)
        if xfailed is not None:
            rows = [row if row.verdict == "kept" else replace(row, xfail=xfailed) for row in rows]
        self.promises += rows
        for report in reports:
            category = _CATEGORIES.get(self.status(report))
            if category:
                setattr(self, category, getattr(self, category) + 1)
        if bad := next((each for each in reports if each.failed), None):
            self.failures.append(nodeid)
            self.told.append(failure.of_test(bad, host.objections))
        return rows

    def _rows(self, report: pytest.TestReport, host: HostView) -> list[Promise]:
        """Return the rows that a report, which has the properties of all phases, states."""
        rows, findings = [], iter(host.findings)
        for name, value in report.user_properties:
            if name == "promise":
                row = _checked(value, report.nodeid)
                row = _unattested(row, host.missing(value) if row.verdict == "kept" else "")
                if not host.witnessed and _names_host(row):
                    row = _unattested(row, UNASKED)
                walked = isinstance(value, dict) and value.get("evidence") == "walk"
                word = [host.guests_word] if walked and host.guests_word else []
                rows.append(replace(row, attested="; ".join([row.attested, *host.told, *word])))
            elif name == CLAIM and (found := next(findings, None)) is not None:
                claim, finding = found
                said = [finding.attested, *host.told]
                said += [host.guests_word] if claim.kind == "cache" else []
                rows.append(
                    Promise(
                        claim.promise,
                        claim.asked,
                        "; ".join(filter(None, said)),
                        finding.verdict,
                        finding.reason,
                        report.nodeid,
                        finding.facts,
                    )
                )
        return rows

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, in the order in which they are shown."""
        names = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed")
        return {name: getattr(self, name) for name in names}

    @property
    def ran(self) -> bool:
        """Whether any test ran, and was not just skipped."""
        return any(count for name, count in self.counts.items() if name != "skipped")

    @property
    def counted(self) -> str:
        """The counts for people: passed and failed, and what else there is."""
        shown = {"errors": "error" if self.errors == 1 else "errors"}
        return ", ".join(
            f"{count} {shown.get(name, name)}"
            for name, count in self.counts.items()
            if count or name in ("passed", "failed")
        )

    def add_failure(self, promise: str, reason: str) -> None:
        """Fail the run for something that belongs to no test; it counts as one failure."""
        self.failed += 1
        self.promises.append(Promise(promise, "", "", "broken", reason, AFTER))
        self.told.append(failure.of_run(f"{AFTER} ({promise})", reason))

    def arrange(self, nodeids: Sequence[str]) -> None:
        """Sort the promises and failures into the order of the tests, in which they are shown."""
        places = {nodeid: place for place, nodeid in enumerate(nodeids)}
        self.promises.sort(key=lambda row: places.get(row.test, len(places)))
        self.failures.sort(key=lambda nodeid: places.get(nodeid, len(places)))
        self.told.sort(key=lambda each: places.get(each.test, len(places)))

    def objections(self) -> list[Promise]:
        """Return the rows that fail the run: broken, or neither kept nor a known gap."""
        return [row for row in self.promises if self._objects(row)]

    def of_the_run(self) -> list[Promise]:
        """Return the objections that belong to no test."""
        return [row for row in self.objections() if row.test == AFTER]

    def _objects(self, row: Promise) -> bool:
        return row.verdict != "kept" and not row.xfail and not self._excused(row)

    def _excused(self, row: Promise) -> bool:
        return (
            row.verdict == "unattested" and (row.promise, row.reason) in self.known_gaps.unattested
        ) or (
            row.verdict == "unsupported" and (row.promise, row.asked) in self.known_gaps.unsupported
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
        """Write attestations.json: ``facts`` of the run, the counts and every promise.

        ``documents/attestations.schema.json`` describes it."""
        whole = {
            **ATTESTATIONS.header,
            **facts,
            **self.counts,
            "notes": list(dict.fromkeys(self.notes)),
            "promises": [asdict(row) for row in self.promises],
        }
        path.write_text(json.dumps(whole, indent=1) + "\n")

    def table(self, width: int = WIDTH, *, colours: bool = False) -> str:
        """Return the table for people, at most ``width`` characters wide."""
        lines = promise_table.lines(self.promises, width, colours=colours)
        accepted = sorted(
            {
                (row.promise, row.reason)
                for row in self.promises
                if row.verdict == "unattested" and self._excused(row)
            }
        )
        if accepted:
            lines += ["", "unattested, as a known gap:"]
            for promise, reason in accepted:
                lines += table.wrapped(f"{promise}: {reason}", width, first="  ", rest="    ")
        for note in dict.fromkeys(self.notes):
            lines += ["", *table.wrapped(f"note: {note}", width, rest="  ")]
        if modes := cache_mode_table.lines(self.promises, width):
            lines += ["", *modes]
        return "\n".join(lines)


def _silent(
    rows: Sequence[Promise],
    marked: Sequence[str],
    reports: Sequence[pytest.TestReport],
    failed: pytest.TestReport | None,
) -> list[Promise]:
    """Return a row for each promise that a test is marked with and did not attest."""
    nodeid = reports[0].nodeid
    if failed is not None:
        if any(row.verdict == "broken" for row in rows):
            return []
        return [Promise(each, "", "", "broken", failure.reason(failed), nodeid) for each in marked]
    why = "the test passed without attesting it"
    if (xfailed := failed_report.xfailed(reports)) is not None:
        why = f"the test failed, as expected: {xfailed}"
    elif (skipped := next((each for each in reports if each.skipped), None)) is not None:
        why = f"skipped: {failure.reason(skipped)}"
    names = {row.promise for row in rows}
    return [
        Promise(each, "", "", "unattested", why, nodeid) for each in marked if each not in names
    ]


def _told(row: Promise) -> str:
    """Return a row as the message of a test that fails because of it."""
    asked = f" (asked: {row.asked})" if row.asked else ""
    attested = f"; attested: {row.attested}" if row.attested else ""
    return f"{row.verdict}: {row.promise}{asked}: {row.reason}{attested}"


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
    return Promise(test=test, facts=shown, by=BY_TEST, **words)


def _unattested(row: Promise, reason: str) -> Promise:
    if row.verdict != "kept" or not reason:
        return row
    return replace(row, verdict="unattested", reason=reason)


def _names_host(row: Promise) -> bool:
    return HOST in row.facts.get(cache_mode_table.AGREED, "").split(", ")


def _refuted(row: Promise, objection: str) -> Promise:
    return replace(row, verdict="broken", reason=objection) if row.verdict == "kept" else row
