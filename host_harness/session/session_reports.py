# SPDX-License-Identifier: Apache-2.0
"""Reports and warnings that the host adds to pytest's session, beside those of the guest."""

from __future__ import annotations

import pytest

from dma_rehearsal.host_harness.session.guest_protocol import Warned
from dma_rehearsal.host_harness.verdict.ledger import status_of
from dma_rehearsal.host_harness.verdict.promise import Promise


def warn(config: pytest.Config, warned: Warned, nodeid: str) -> None:
    """Add a warning of the guest to pytest's summary of warnings."""
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": warned.as_message(),
            "when": "runtest" if nodeid else "collect",
            "nodeid": nodeid,
            "location": None,
        }
    )


def category(config: pytest.Config, report: pytest.TestReport) -> str:
    """Return the name under which pytest's summary counts a report."""
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return status_of(report)
    return str(config.hook.pytest_report_teststatus(report=report, config=config)[0])


def show(session: pytest.Session, reports: list[pytest.TestReport]) -> None:
    """Hand these reports to everything that reads reports (the terminal, junit.xml)."""
    collected = {item.nodeid for item in session.items}
    for report in reports:
        session.testscollected += report.nodeid not in collected  # for the terminal's percents
        session.config.hook.pytest_runtest_logreport(report=report)


def objection(row: Promise) -> pytest.TestReport:
    """Return the failure for a row that belongs to no test."""
    return failure(f"{row.test} ({row.promise})", f"{row.verdict}: {row.promise}: {row.reason}")


def failure(nodeid: str, text: str) -> pytest.TestReport:
    """Return a report of a failed test."""
    return pytest.TestReport(
        nodeid=nodeid,
        location=(nodeid.partition("::")[0], None, nodeid.rpartition("::")[2]),
        keywords={},
        outcome="failed",
        longrepr=text,
        when="call",
    )
