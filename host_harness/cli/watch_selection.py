# SPDX-License-Identifier: Apache-2.0
"""The tests that a watch runs after a change, as files, so that the guest collects no others.

A change of test files alone reruns the tests of these files, and those that failed last. Any other
change reruns every selected test.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

_TEST_FILES = ("test_*.py", "*_test.py")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run. The tests are node ids.

    ``scope`` are the paths and node ids that the user named; ``selected`` is None when no test was
    collected, because something went wrong before; ``refused``: pytest does not take the user's
    arguments. ``counted`` says how many passed and failed, ``how`` how the guest came up.
    """

    status: int
    scope: tuple[str, ...] = ()
    selected: tuple[str, ...] | None = None
    left_out: int = 0
    refused: bool = False
    ran: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    counted: str = ""
    how: str = ""
    folder: str = ""

    @classmethod
    def of(cls, said: dict[str, Any]) -> Outcome:
        """Return the outcome that `dataclasses.asdict` has made into JSON."""
        lists = {name: tuple(each) for name, each in said.items() if isinstance(each, list)}
        return cls(**{**said, **lists})


class Selection:
    """The selected tests by file, and those that failed last, as the runs so far have shown."""

    def __init__(self) -> None:
        self._tests: dict[str, set[str]] = {}
        self._failed: set[str] = set()
        self._scope: tuple[str, ...] = ()
        self._is_all = True

    @property
    def is_known(self) -> bool:
        """Whether a run has found selected tests."""
        return bool(self._tests)

    @property
    def files(self) -> list[str]:
        """The files with selected tests, in the order of collection."""
        return list(self._tests)

    def learn(self, outcome: Outcome, only: Collection[str]) -> None:
        """Take what a run has found that collected ``only``; nothing: everything in scope."""
        if outcome.selected is None:
            return
        if not only:
            self._tests.clear()
            self._failed.clear()
            self._scope = outcome.scope
            self._is_all = not outcome.left_out
        for name in map(file_of, only):
            self._tests.get(name, set()).clear()  # it keeps its place
        for nodeid in outcome.selected:
            self._tests.setdefault(file_of(nodeid), set()).add(nodeid)
        self._tests = {name: tests for name, tests in self._tests.items() if tests}
        self._failed = (self._failed - set(outcome.ran)) | set(outcome.failed)
        self._failed &= {nodeid for tests in self._tests.values() for nodeid in tests}

    def forget(self, file: str) -> None:
        """Leave out the tests of a file that is gone."""
        self._failed -= self._tests.pop(file, set())

    def after_test_files(self, changed: Iterable[str]) -> tuple[str, ...]:
        """Return what to collect when these test files changed, and nothing else did.

        Nothing: none of the selected tests can have changed.
        """
        files = set(filter(self._is_in_scope, changed))
        if not files:
            return ()
        return self._words({*files, *map(file_of, self._failed)})

    def all_words(self, changed: Iterable[str] = ()) -> tuple[str, ...]:
        """Return what to collect for every selected test; nothing: everything in scope.

        Test files that ``changed`` may have new ones.
        """
        if self._is_all:
            return ()
        return self._words({*self._tests, *filter(self._is_in_scope, changed)})

    def is_test_file(self, name: str) -> bool:
        """Return whether a file, relative to the root of the tests, has tests of its own."""
        base = os.path.basename(name)  # noqa: PTH119 - a name in the guest
        return name in self._tests or any(fnmatch(base, pattern) for pattern in _TEST_FILES)

    def _is_in_scope(self, name: str) -> bool:
        if not self._scope:
            return True
        return any(
            name == path or path == "." or name.startswith(f"{path}/")
            for path in map(_path_of, self._scope)
        )

    def _words(self, files: Collection[str]) -> tuple[str, ...]:
        """Return the files, or the user's node ids in them; known files come in their order."""
        named: dict[str, list[str]] = {}
        for word in self._scope:
            named.setdefault(_path_of(word), []).append(word)
        words: list[str] = []
        for name in dict.fromkeys(
            [*(each for each in self._tests if each in files), *sorted(files)]
        ):
            nodeids = named.get(name, [])
            words += nodeids if all("::" in word for word in nodeids) and nodeids else [name]
        return tuple(words)


def file_of(nodeid: str) -> str:
    """Return the file of a node id, relative to the root of the tests."""
    return nodeid.partition("::")[0]


def _path_of(word: str) -> str:
    return os.path.normpath(file_of(word))
