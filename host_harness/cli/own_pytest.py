# SPDX-License-Identifier: Apache-2.0
"""Starts pytest for the harness's own command line: its arguments, and a plugin that marks it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dma_rehearsal.host_harness import pytest_plugin
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.session.guest_session import GuestSession
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.verdict_record import Recorder


def run(run: Run, words: Sequence[str], recorder: Recorder) -> int | pytest.ExitCode:
    """Run the guest tests of ``run`` with the user's ``words``; return pytest's exit code."""
    plugins = [pytest_plugin, Cli(run), GuestSession(run), recorder]
    return pytest.main(_arguments(run, words), plugins)


class Cli:
    """Marks pytest's run as the harness's own: its paths are the guest's, below ``run.tests``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Pass the given paths to the guest; this side collects nothing itself."""
        for option in OPTIONS:
            if config.getoption(f"--vm-{option.name}"):
                raise pytest.UsageError(f"--vm-{option.name}: here it is {option.variable}=...")
        if config.getoption("--vm") or config.getoption("--vm-runs"):
            raise pytest.UsageError("--vm and --vm-runs: here they are --tests and --runs")
        if config.args_source is pytest.Config.ArgsSource.ARGS:
            tests = self.run.tests
            if self.run.replay:
                self.run.replay = replace(self.run.replay, positional=tuple(config.args))
            prefix = f"{tests.root.name}/" if tests.is_own else ""
            selected = tuple(word.removeprefix(prefix) for word in config.args)
            self.run.tests = GuestTests(tests.root, selected)
        config.args = []
        config.stash[pytest_plugin.RUN] = self.run


def _arguments(run: Run, words: Sequence[str]) -> list[str]:
    suite = GuestTests().root
    verbosity = any(word.startswith(("-v", "-q", "--verbose", "--quiet")) for word in words)
    # In a log every test has its line; on a terminal the dots move.
    plain = [] if verbosity or sys.stdout.isatty() else ["-v"]
    return [
        *("-c", str(suite / "pytest.ini"), "--rootdir", str(run.tests.root), "--noconftest"),
        *("--strict-markers", "-o", f"cache_dir={run.cache_folder}"),
        # Installed, pytest also finds the plugin by its entry point, after it was imported here.
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        # It would import all of Hypothesis for a line of the header, while the guest waits.
        *("-p", "no:hypothesispytest"),
        *plain,
        *words,
    ]
