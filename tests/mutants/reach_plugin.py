# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest, loaded with ``-p``: which tests reach which lines, and a choice of tests.

``--reach FILE`` writes what `Reach` takes in. ``--chosen FILE`` runs the tests that the file names,
and those of the modules that it names, one a line and in this order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import coverage
import hypothesis
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options, and the modules to watch."""
    group = parser.getgroup("mutants")
    group.addoption("--reach", type=Path, help="write here which tests reach which lines")
    group.addoption("--watch", action="append", default=[], help="a pattern of files to watch")
    group.addoption("--chosen", type=Path, help="run just the tests that this file names")


class _Recorder:
    """Watches the tests. Lines that an import runs are in no test's context."""

    def __init__(self, config: pytest.Config) -> None:
        self._root = config.rootpath
        self._file: Path = config.getoption("--reach")
        self._coverage = coverage.Coverage(
            data_file=None, include=config.getoption("--watch"), config_file=False
        )
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Count what runs from now on as the test's."""
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what each test took; one that fails on the right code judges no mutant."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self._coverage.stop()
        data = self._coverage.get_data()
        tests = [name for name in self._seconds if name not in self._failed]
        numbers = {name: number for number, name in enumerate(tests)}
        lines = {
            str(Path(file).relative_to(self._root)): {
                line: sorted(numbers[name] for name in names if name in numbers)
                for line, names in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        told = {
            "tests": [(name, round(self._seconds[name], 3)) for name in tests],
            "failed": sorted(self._failed),
            "lines": lines,
        }
        self._file.write_text(json.dumps(told))


class _Chooser:
    def __init__(self, file: Path) -> None:
        names = file.read_text().splitlines()
        self._order = {name: number for number, name in enumerate(names)}

    def pytest_sessionstart(self) -> None:
        """Let hypothesis say at once that a test fails, and the same each time."""
        hypothesis.settings.register_profile(
            "mutants",
            deadline=None,
            derandomize=True,
            database=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the chosen, in their order."""
        chosen = [(place, item) for item in items if (place := self._place(item)) is not None]
        items[:] = [item for _, item in sorted(chosen, key=lambda each: each[0])]

    def _place(self, item: pytest.Item) -> int | None:
        module = item.nodeid.partition("::")[0]
        return self._order.get(item.nodeid, self._order.get(module))


def pytest_configure(config: pytest.Config) -> None:
    """Begin with what was asked for."""
    if config.getoption("--reach"):
        config.pluginmanager.register(_Recorder(config))
    if chosen := config.getoption("--chosen"):
        config.pluginmanager.register(_Chooser(chosen))
