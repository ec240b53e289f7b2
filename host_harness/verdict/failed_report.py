# SPDX-License-Identifier: Apache-2.0
"""Turns a test's report into a failed one, where the host objects to the test.

Everything that reads reports (the terminal, junit.xml, --lf, -x, the ledger) then sees the same
outcome.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

_STRICT = "[XPASS(strict)]"
_SECTION = "What the host saw"


class HostWords(TerminalRepr):
    """The host's objections to a test, in place of a traceback.

    ``reprcrash`` is where pytest looks for the line of its short summary.
    """

    def __init__(self, text: str, path: str, line: int) -> None:
        self.text = text
        self.reprcrash = ReprFileLocation(path, line, text.partition("\n")[0])

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write it."""
        for line in self.text.splitlines():
            tw.line(line)


def is_call(report: pytest.TestReport) -> bool:
    """Whether this is the report of a test's own call, and not that of a subtest."""
    return report.when == "call" and not is_subtest(report)


def is_subtest(report: pytest.TestReport) -> bool:
    """Whether this is the report of a part of a test (pytest 9's subtests)."""
    return hasattr(report, "context")


def expected_to_fail(report: pytest.TestReport) -> str | None:
    """Return why a test is expected to fail, if it is: xfailed, or passed against it."""
    if (reason := getattr(report, "wasxfail", None)) is not None:
        return str(reason) or "no reason given"
    if report.failed and report.longreprtext.startswith(_STRICT):
        return report.longreprtext.removeprefix(_STRICT).strip() or "no reason given"
    return None


def xfailed(reports: Sequence[pytest.TestReport]) -> str | None:
    """Return why a test was expected to fail, if it was, and did."""
    found = (each for each in reports if each.skipped and hasattr(each, "wasxfail"))
    report = next(found, None)
    return None if report is None else expected_to_fail(report)


def failed_by_itself(report: pytest.TestReport) -> bool:
    """Whether this is a failure, and not that of a test which should have failed and passed."""
    return report.failed and expected_to_fail(report) is None


def objected(reports: Sequence[pytest.TestReport], text: str) -> None:
    """Fail a test with ``text``: its call if it has one, else its setup.

    A report that failed gets the text in a section of its own. A test that was expected to fail,
    and passed, has then failed as expected.
    """
    report = next(filter(is_call, reports), reports[0])
    xfail = expected_to_fail(report)
    if (report.failed and xfail is None) or (report.skipped and xfail is not None):
        report.sections.append((_SECTION, text))
    elif xfail is not None:
        report.outcome = "skipped"  # pytest's word for a failure that was expected
        report.wasxfail = xfail
        report.longrepr = words(report, text)
    else:
        report.outcome = "failed"
        report.longrepr = words(report, text)


def words(report: pytest.TestReport, text: str) -> HostWords:
    """Return the text as a failure of a report's test."""
    path, line, _ = report.location
    return HostWords(text, path, (line or 0) + 1)


def joined(reports: Sequence[pytest.TestReport]) -> None:
    """Make one failure of a test's several failures, as the guest's pytest would count it.

    A test with failed subtests has failed. Where both the call and the teardown failed, the call's
    report has the texts of both.
    """
    call = next(filter(is_call, reports), None)
    if call is None:
        return
    parts = sum(each.failed for each in reports if is_subtest(each))
    if parts and call.passed:
        call.outcome = "failed"
        call.longrepr = words(call, f"contains {parts} failed subtest{'s' * (parts > 1)}")
    last = reports[-1]
    if call.failed and last.when == "teardown" and last.failed:
        call.sections.append(("The teardown failed, too", last.longreprtext))
        last.outcome = "passed"
        last.longrepr = None
