# SPDX-License-Identifier: Apache-2.0
"""Starts pytest for the harness's own command line: its arguments, and a plugin that marks it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness import pytest_plugin
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options.replay import Replay
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.session.guest_session import GuestSession
from dma_rehearsal.host_harness.session.run import Run


def run(run: Run, words: Sequence[str], *plugins: object) -> int | pytest.ExitCode:
    """Run the guest tests of ``run`` with the user's ``words``; return pytest's exit code."""
    return _main(run, words, plugins)


def run_to_status(
    run: Run, runs: Path, words: Sequence[str], *plugins: object
) -> int | pytest.ExitCode:
    """Do what `run` does, in a folder below ``runs``, and see to it that the run has a status."""
    run.open_folder()
    argv = [sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--runs", str(runs)]
    if not run.tests.is_own:
        argv += ["--tests", *run.tests.selected]
    run.replay = Replay(argv, words, Path.cwd())
    code = _main(run, words, plugins)
    if run.status is None:  # pytest had no session
        usage = code == pytest.ExitCode.USAGE_ERROR
        run.conclude(Status.USAGE if usage else Status.NO_VERDICT)
    return code


def _main(run: Run, words: Sequence[str], plugins: Iterable[object]) -> int | pytest.ExitCode:
    of_a_run = [pytest_plugin, Cli(run), GuestSession(run)]
    return pytest.main(_arguments(run, words), [*of_a_run, *plugins])


class Cli:
    """Marks pytest's run as the harness's own: its paths are the guest's, below ``run.tests``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Pass the given paths to the guest; this side collects nothing itself."""
        for option in OPTIONS:
            if config.getoption(option.flag):
                raise pytest.UsageError(f"{option.flag}: here it is {option.variable}=...")
        if config.getoption("--vm") or config.getoption("--vm-runs"):
            raise pytest.UsageError("--vm and --vm-runs: here they are --tests and --runs")
        if config.args_source is pytest.Config.ArgsSource.ARGS:
            tests = self.run.tests
            if self.run.replay:
                self.run.replay = replace(self.run.replay, positional=tuple(config.args))
            prefix = f"{tests.root.name}/" if tests.is_own else ""
            selected = tuple(word.removeprefix(prefix) for word in config.args)
            self.run.tests = replace(tests, selected=selected)
        config.args = []
        config.stash[pytest_plugin.RUN] = self.run


def _arguments(run: Run, words: Sequence[str]) -> list[str]:
    suite = GuestTests().root
    workers = any(word.startswith(("-n", "--numprocesses")) for word in words)
    verbosity = any(word.startswith(("-v", "-q", "--verbose", "--quiet")) for word in words)
    # In a log every test has its line; on a terminal the dots move.
    plain = [] if verbosity or sys.stdout.isatty() else ["-v"]
    return [
        *("-c", str(suite / "pytest.ini"), "--rootdir", str(run.tests.root), "--noconftest"),
        *("--strict-markers", "-o", f"cache_dir={run.cache_folder}"),
        # Installed, pytest also finds the plugin by its entry point, after it was imported here.
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        # One would import all of Hypothesis for a line of the header, while the guest waits. The
        # other is of no use here; with its option it is loaded, so that the option is refused.
        *("-p", "no:hypothesispytest"),
        *([] if workers else ["-p", "no:xdist", "-p", "no:xdist.looponfail"]),
        *plain,
        *words,
    ]
