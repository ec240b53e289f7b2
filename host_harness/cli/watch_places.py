# SPDX-License-Identifier: Apache-2.0
"""The files on which a run's result depends, and what a change of each means for a watch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness.cli import watched_files
from dma_rehearsal.host_harness.cli.watched_files import Snapshot
from dma_rehearsal.host_harness.environment import endpoint_files, module_sources
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests
from dma_rehearsal.host_harness.options.run_options import Options

_NAMED_MAX = 3  # changed files that are named one by one


class Kind(Enum):
    """The parts that a file can belong to."""

    HARNESS = auto()  # the host's code, which this process has imported
    ENDPOINT = auto()  # the guest has nothing of it
    TEST = auto()  # a file with tests
    GUEST = auto()  # anything else that the guest has: guest/, the profile, a module under test


class Places:
    """The files and folders to watch, and the part that each file belongs to.

    ``runs`` is the folder of the runs' artefacts, which change with each run.
    """

    def __init__(
        self, options: Options, tests: GuestTests, runs: Path, source: Path = SOURCE
    ) -> None:
        self._harness = [source / "host_harness", source / "device"]
        self._tests_root = tests.root
        if tests.is_own:
            self._test_folders = [tests.root / "suite"]
            self._guest = [tests.root]
        else:
            self._test_folders = [tests.root / path for path in tests.files()]
            guest = source / "guest"
            # The suite does not run, but the rest of guest/ does.
            own = [path for path in guest.iterdir() if path.name != "suite"]
            self._guest = [path for path in own if not watched_files.is_ignored(path.name)]
        self._left_out = [runs.absolute()]
        named = options.given.get("profile")
        self._profile = profile.path_of(named).resolve() if named else None
        self._modules = [_WatchedModule(text) for text in options.modules]
        self._endpoint = options.endpoint
        self._endpoint_files: frozenset[Path] = frozenset()
        self._endpoint_seen: Snapshot | None = None

    def look(self) -> Snapshot:
        """Return a snapshot of all files to watch."""
        places = [*self._harness, *self._guest, *self._test_folders]
        places += [self._profile] if self._profile else []
        found = dict(watched_files.snapshot(places, self._left_out))
        for module in self._modules:
            found |= module.look()
        if self._endpoint:
            found |= self._look_at_endpoint(self._endpoint)
        return found

    def kind(self, path: Path) -> Kind:
        """Return the part that a file belongs to."""
        if path in self._endpoint_files:
            return Kind.ENDPOINT
        if path == self._profile:
            return Kind.GUEST
        if any(path.is_relative_to(folder) for folder in self._harness):
            return Kind.HARNESS
        if any(path == place or path.is_relative_to(place) for place in self._test_folders):
            return Kind.TEST
        return Kind.GUEST

    def name(self, path: Path) -> str:
        """Return a file's name as node ids have it: relative to the root of the tests."""
        return os.path.relpath(path, self._tests_root)

    def _look_at_endpoint(self, endpoint: str) -> Snapshot:
        seen = watched_files.snapshot(self._endpoint_files)
        if seen != self._endpoint_seen:
            # Files that were there are kept: one may be in the middle of an editor's rename.
            self._endpoint_files |= endpoint_files.files(endpoint, endpoint_files.search_path())
            seen = self._endpoint_seen = watched_files.snapshot(self._endpoint_files)
        return seen


class _WatchedModule:
    """The sources of a module under test; they are read again when one of them has changed."""

    def __init__(self, text: str) -> None:
        self._source = module_sources.find(text)
        self._files: list[Path] = []
        self._seen: Snapshot | None = None

    def look(self) -> Snapshot:
        """Return a snapshot of the sources, those outside the module's folder too."""
        seen = self._snapshot()
        if seen != self._seen:
            self._files = module_sources.looked_at(self._source)
            seen = self._seen = self._snapshot()
        return seen

    def _snapshot(self) -> Snapshot:
        found = watched_files.snapshot([*self._files, self._source.path])
        return {
            path: stamp
            for path, stamp in found.items()
            if path == self._source.path or module_sources.is_read(path)
        }


def listed(paths: Iterable[Path]) -> str:
    """Return the paths for people, relative to the current folder; of many the first few."""
    names = sorted(os.path.relpath(path) for path in paths)
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
