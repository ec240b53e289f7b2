# SPDX-License-Identifier: Apache-2.0
"""Reruns the selected tests whenever a file that they depend on changes.

This process imports everything once. It forks a child for each run, so a run begins at once, and
leaves nothing behind in this process. The child runs the tests as `test` does.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

import dma_rehearsal
from dma_rehearsal.host_harness.cli import watched_run
from dma_rehearsal.host_harness.cli.watch_places import Kind, Places, listed
from dma_rehearsal.host_harness.cli.watch_selection import Outcome, Selection
from dma_rehearsal.host_harness.cli.watched_files import WatchedFiles
from dma_rehearsal.host_harness.cli.watched_run import Asked, Command
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process import children, forked, janitor
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.process.forked import Forked
from dma_rehearsal.host_harness.process.keyboard import Keyboard

# A run that a change has made old may end by itself for so long.
_PATIENCE_S = 2.0
_GRACE_S = 20.0  # for a run that is told to end: it ends its VM
_IMPORT_S = 60.0
_CLEAR = "\x1b[2J\x1b[H"
_GOOD, _BAD, _PLAIN = "\x1b[1;32m", "\x1b[1;31m", "\x1b[0m"
_QUIT, _ALL, _AGAIN = ("q", "a", "\n\r")


class Process(Protocol):
    """A run that is under way: `forked.Forked`, or a test's stand-in."""

    written: bytes

    def fileno(self) -> int:
        """Return what becomes readable when there is something to look at."""

    def look(self) -> int | None:
        """Return the status when it has ended."""

    def end(self, grace_s: float) -> int:
        """Have it end."""


Begin = Callable[[Asked], Process]


def run(options: Options, tests: GuestTests, runs: Path, words: Sequence[str]) -> Status:
    """Watch until the user ends it; return the status of the last run.

    UsageError for options that cannot be watched.
    """
    if options.keep or options.gdb:
        raise UsageError("KEEP and GDB are for one run, and a watch runs again", "leave them out")
    command = Command(tests, runs, words, options.seed)
    places = Places(options, tests, runs)
    files = WatchedFiles(places.look)

    def begin(asked: Asked) -> Forked:
        return forked.start(partial(watched_run.work, command, asked))

    with Keyboard() as keyboard:
        watch = Watch(places, files, keyboard, begin)
        status = watch.run()
    if watch.must_restart:
        _restart()
    return status


def _restart() -> NoReturn:
    """Replace this process by a new one of the same command line."""
    janitor.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)


def import_error() -> str:
    """Return what is wrong with the harness's code as it is on the disk now; "": nothing."""
    modules = ("dma_rehearsal.device.__main__", __name__)
    # -P: modules of the current folder must not hide those of the standard library.
    argv = [sys.executable, "-P", "-c", f"import {', '.join(modules)}"]
    path = [os.environ.get("PYTHONPATH", ""), str(Path(dma_rehearsal.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    try:
        done = children.run(argv, timeout_s=_IMPORT_S, environment=environment)
    except subprocess.TimeoutExpired:
        return f"its import takes more than {_IMPORT_S:g} s"
    return done.stderr.strip() if done.returncode else ""


class Watch:
    """The loop: a run, then a wait for a change or a key.

    ``must_restart`` is set when the code of the harness has changed.
    """

    def __init__(
        self,
        places: Places,
        files: WatchedFiles,
        keyboard: Keyboard,
        begin: Begin,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.must_restart = False
        self._places = places
        self._files = files
        self._keyboard = keyboard
        self._begin = begin
        self._clock = clock
        self._selection = Selection()
        self._changed: set[Path] = set()
        self._untested: set[Path] = set()  # changes of which no run has told anything
        self._since: float | None = None  # the moment of the change that asked for a run
        self._status = Status.NO_VERDICT
        self._passed_folder = ""
        self._quit = False
        self._terminal = sys.stdout.isatty()

    def run(self) -> Status:
        """Watch until the user ends it, or the harness must start again; return the status."""
        asked: Asked | None = Asked("the first run", first=True)
        try:
            while asked and not self._quit:
                self._run(asked)
                asked = self._next(asked)
        except KeyboardInterrupt:
            print("\nthe watch ends", flush=True)
        return self._status

    def _run(self, asked: Asked) -> None:
        """Run, until the end of the run or of its worth."""
        self._title(asked.why)
        start = self._clock() if self._since is None else self._since
        self._since = None
        process = self._begin(asked)
        status = None
        try:
            status = self._follow(process)
        finally:
            if status is None:
                process.end(_GRACE_S)
        if status is None:
            print("the run was ended: it was of the files before the change", flush=True)
            return
        outcome = _outcome_of(process.written, status)
        self._selection.learn(outcome, asked.only)
        if outcome.selected is not None and outcome.status != Status.NO_VERDICT:
            self._untested.clear()
        self._report(outcome, self._clock() - start)

    def _follow(self, process: Process) -> int | None:
        """Return the status of a run when it has ended; None when it must be ended."""
        limit = None
        with selectors.DefaultSelector() as selector:
            selector.register(process, selectors.EVENT_READ)
            if self._keyboard.is_there:
                selector.register(self._keyboard, selectors.EVENT_READ)
            while not self._quit and (limit is None or self._clock() < limit):
                ready = [key.fileobj for key, _ in selector.select(self._files.pause_s)]
                if self._keyboard in ready:
                    keys = self._keyboard.read()
                    self._quit = _QUIT in keys or not keys
                if process in ready and (status := process.look()) is not None:
                    return status
                self._changed |= self._files.changes()
                if self._changed and limit is None:
                    limit = self._clock() + _PATIENCE_S
        return None

    def _next(self, last: Asked) -> Asked | None:
        """Wait for a change or a key; return the run that it asks for. None: the watch ends."""
        if self._quit:
            return None
        if not self._changed:
            self._say_what_is_watched()
        with selectors.DefaultSelector() as selector:
            if self._keyboard.is_there:
                selector.register(self._keyboard, selectors.EVENT_READ)
            while True:
                if self._changed and (asked := self._asked_by_change()):
                    return asked
                if self.must_restart:
                    return None
                if selector.select(self._files.pause_s):
                    keys = self._keyboard.read()
                    if _QUIT in keys or not keys:
                        return None
                    if _ALL in keys:
                        return Asked("all selected tests")
                    if any(key in keys for key in _AGAIN):
                        return Asked("again", last.only)
                self._changed |= self._files.changes()

    def _asked_by_change(self) -> Asked | None:
        """Return the run that the changed files ask for. None: none, and the user is told why."""
        changed = self._untested = self._untested | self._changed
        self._changed = set()
        self._since = self._files.changed_at
        kinds = {path: self._places.kind(path) for path in changed}
        harness = {path for path, kind in kinds.items() if kind is Kind.HARNESS}
        if harness:
            self._restart_for(harness)
            return None
        names = {path: self._places.name(path) for path, kind in kinds.items() if kind is Kind.TEST}
        tests = {path for path, name in names.items() if self._selection.is_test_file(name)}
        there = [names[path] for path in tests if path.exists()]
        for path in tests:
            if names[path] not in there:
                self._selection.forget(names[path])
        why = f"{listed(changed)} changed"
        edited = set(kinds.values()) != {Kind.ENDPOINT}
        if tests != changed or not self._selection.is_known:
            return Asked(why, self._selection.all_words(there), edited)
        only = self._selection.after_test_files(there)
        if not only:
            self._untested = set()
            self._tell(f"{why}: none of the selected tests is there")
            return None
        files = len(self._selection.files)
        part = f"; {len(only)} of {files} files, a runs all" if len(only) < files else ""
        return Asked(f"{why}{part}", only, edited)

    def _restart_for(self, harness: Collection[Path]) -> None:
        if error := import_error():
            self._untested.difference_update(harness)
            self._tell(f"{listed(harness)} changed, and cannot be imported:\n{error}")
        else:
            print(f"\n{listed(harness)} changed: the watch starts again", flush=True)
            self.must_restart = True

    def _report(self, outcome: Outcome, seconds: float) -> None:
        """Print the run's verdict; keep its status, and its folder if it did not pass."""
        if outcome.folder:
            if self._passed_folder:
                shutil.rmtree(self._passed_folder, ignore_errors=True)
            self._passed_folder = outcome.folder if outcome.status == Status.PASSED else ""
        if outcome.selected == ():
            print("no test is selected", flush=True)
            return
        self._status = Status(outcome.status)
        self._quit = not self._selection.is_known and (
            outcome.refused or outcome.status == Status.ENVIRONMENT
        )
        how = f" ({outcome.how})" if outcome.how else ""
        words = f"status {outcome.status}{how}: {outcome.counted or 'no test ran'}, {seconds:.1f} s"
        if self._terminal:
            colour = _GOOD if outcome.status == Status.PASSED else _BAD
            words = f"{colour}{words}{_PLAIN}"
        print(words, flush=True)

    def _title(self, why: str) -> None:
        print(_CLEAR if self._terminal else "\n", end="")
        print(f"--- {why}", flush=True)

    def _tell(self, words: str) -> None:
        print(f"\n{words}", flush=True)
        self._say_what_is_watched()

    def _say_what_is_watched(self) -> None:
        keys = "Enter runs again, a runs all, q or " if self._keyboard.is_there else ""
        print(f"watching {len(self._files)} files; {keys}Ctrl-C ends", flush=True)


def _outcome_of(written: bytes, status: int) -> Outcome:
    """Return a run's outcome; NO_VERDICT for a process that ended without one."""
    try:
        return Outcome.of(json.loads(written))
    except ValueError:
        print(f"no verdict: the process of the run ended with status {status}", flush=True)
        return Outcome(Status.NO_VERDICT)
