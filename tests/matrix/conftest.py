# SPDX-License-Identifier: Apache-2.0
"""One report for all cells, whichever worker ran them."""

from __future__ import annotations

import json
import time

import pytest

from tests.matrix.cells import FOLDER, Result, parallel
from tests.matrix.grid import grid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run as many VMs at a time as the machine has room for."""
    return parallel()


class Report:
    """Gathers the cells' results where the run is reported, and prints them."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._start = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the result that a test recorded."""
        if report.when == "call":
            found = dict(report.user_properties).get("cell")
            if isinstance(found, dict):
                self.results.append(Result.of(found))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the merged table, and write it beside the cells' own artefacts."""
        if not self.results:
            return
        self.results.sort(key=lambda each: each.cell)
        lines = grid(self.results, time.monotonic() - self._start)
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "report.txt").write_text("\n".join([*lines, ""]))
        facts = [each.words() | {"ok": each.ok} for each in self.results]
        (FOLDER / "report.json").write_text(json.dumps(facts, indent=1) + "\n")
        terminalreporter.section("matrix")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Report once: not in a worker, whose output nobody sees."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report())
