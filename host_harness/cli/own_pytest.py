# SPDX-License-Identifier: Apache-2.0
"""pytest as the harness's own command line starts it: its words, and the plugin that says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dma_rehearsal.host_harness import pytest_plugin
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.session.guest_session import GuestSession
from dma_rehearsal.host_harness.session.run import Rig
from dma_rehearsal.host_harness.session.verdict_record import Recorder


def run(rig: Rig, words: Sequence[str], recorder: Recorder) -> int | pytest.ExitCode:
    """Run the guest tests of ``rig`` with the user's ``words``; return pytest's exit code."""
    plugins = [pytest_plugin, Cli(rig), GuestSession(rig), recorder]
    return pytest.main(_arguments(rig, words), plugins)


class Cli:
    """Marks pytest's run as the harness's own: its paths are the guest's, below ``rig.tests``."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the guest have the paths that were given; this side collects nothing itself."""
        for option in OPTIONS:
            if config.getoption(f"--vm-{option.name}"):
                raise pytest.UsageError(f"--vm-{option.name}: here it is {option.variable}=...")
        if config.getoption("--vm") or config.getoption("--vm-runs"):
            raise pytest.UsageError("--vm and --vm-runs: here they are --tests and --runs")
        if config.args_source is pytest.Config.ArgsSource.ARGS:
            tests = self.rig.tests
            if self.rig.replay:
                self.rig.replay = replace(self.rig.replay, positional=tuple(config.args))
            prefix = f"{tests.root.name}/" if tests.is_own else ""
            selected = tuple(word.removeprefix(prefix) for word in config.args)
            self.rig.tests = GuestTests(tests.root, selected)
        config.args = []
        config.stash[pytest_plugin.RIG] = self.rig


def _arguments(rig: Rig, words: Sequence[str]) -> list[str]:
    suite = GuestTests().root
    verbosity = any(word.startswith(("-v", "-q", "--verbose", "--quiet")) for word in words)
    # In a log every test has its line; on a terminal the dots move.
    plain = [] if verbosity or sys.stdout.isatty() else ["-v"]
    return [
        *("-c", str(suite / "pytest.ini"), "--rootdir", str(rig.tests.root), "--noconftest"),
        *("--strict-markers", "-o", f"cache_dir={rig.cache_folder}"),
        # Installed, pytest also finds the plugin by its entry point, after it was imported here.
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        # It would import all of Hypothesis for its line of the header, while the guest waits.
        *("-p", "no:hypothesispytest"),
        *plain,
        *words,
    ]
