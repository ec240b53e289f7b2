# SPDX-License-Identifier: Apache-2.0
"""Which tests reach which lines: measured by coverage, and kept for the tree as it was."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from dma_rehearsal.host_harness.process import children
from tests.mutants.candidates import Candidate

# The guest's whole suite on the devices' own code, in one process. It is a stage of its own; the
# other tests beside it run parts of it on devices that are wrong, and would take longer than it.
SUITE = "tests/inprocess/test_whole_suite.py::test_sound_devices"
_UNITS = "tests/unit"
_SUITE = "tests/inprocess"
_LIMIT_S = 1800
_DIGESTS = "digests"


class NotMeasured(Exception):
    """The unit tests did not run to their end on the tree as it is."""


class Told(TypedDict):
    """The plugin's record of one folder of tests; lines hold numbers of ``tests``."""

    tests: list[tuple[str, float]]
    failed: list[str]
    lines: dict[str, dict[str, list[int]]]


@dataclass(slots=True)
class Reach:
    """Seconds of each test that passes, and the tests of each line of each module."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    # Modules of tests, and files of the areas, that differ from what was measured.
    newer_tests: list[str] = field(default_factory=list)
    newer: set[str] = field(default_factory=set)

    def of(self, candidate: Candidate) -> list[str]:
        """Return the tests that reach a mutant, the quickest first, and before them newer modules.

        Where only an import runs the line, or nothing that is measured, all that reach its module.
        """
        lines = self.lines.get(candidate.file, {})
        span = range(candidate.start[0], candidate.end[0] + 1)
        tests: set[str] = set()
        if candidate.in_body and candidate.file not in self.newer:
            tests = tests.union(*(lines.get(line, ()) for line in span))
        tests = tests or tests.union(*lines.values())
        old = [test for test in tests if test.partition("::")[0] not in self.newer_tests]
        return self.newer_tests + sorted(old, key=lambda test: (self.seconds[test], test))

    def took(self, tests: Iterable[str]) -> float:
        """Return the seconds that these took; those of newer modules count as nothing."""
        return sum(self.seconds.get(test, 0) for test in tests)

    def add(self, told: Told) -> None:
        """Take in one folder of tests."""
        names = [name for name, _ in told["tests"]]
        self.seconds.update(dict(told["tests"]))
        self.failed += told["failed"]
        for file, lines in told["lines"].items():
            of_file = self.lines.setdefault(file, {})
            for line, numbers in lines.items():
                of_file.setdefault(int(line), set()).update(names[number] for number in numbers)


def folders(root: Path) -> list[str]:
    """Return the folders of unit tests, and modules that lie beside them."""
    units = root / _UNITS
    found = [path for path in units.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))]
    return [str(path.relative_to(root)) for path in sorted([*found, *units.glob("test_*.py")])]


def _parts(root: Path) -> list[str]:
    return folders(root) + [_SUITE] * (root / SUITE.partition("::")[0]).is_file()


def measure(trees: list[Path], areas: Iterable[str], keep: Path, now: dict[str, str]) -> Reach:
    """Run the unit tests in these copies, a folder at a time in each. Raise NotMeasured.

    ``keep``: a folder for what is measured; what is there of the tree ``now`` is taken as it is.
    """
    if _kept(keep) != now:
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True)
        (keep / _DIGESTS).write_text(json.dumps(now))
    watched = [f"{area}/*" if not area.endswith(".py") else area for area in areas]
    waiting = [name for name in _parts(trees[0]) if not _file(keep, name).exists()]

    def work(folder: Path) -> None:
        while waiting:
            _measure(folder, waiting.pop(0), watched, keep)

    with ThreadPoolExecutor(len(trees)) as pool:
        list(pool.map(work, trees))
    return kept(keep, now)


def kept(keep: Path, now: dict[str, str]) -> Reach:
    """Return what was measured last, with what is newer in the tree ``now``."""
    reach, before = Reach(), _kept(keep)
    changed = sorted(name for name, said in now.items() if before.get(name) != said)
    reach.newer = set(changed)
    reach.newer_tests = [name for name in changed if _is_unit(Path(name))]
    for file in sorted(keep.glob("*.json")):
        reach.add(json.loads(file.read_text()))
    return reach


def _is_unit(path: Path) -> bool:
    return path.match("test_*.py") and path.is_relative_to(_UNITS)


def _kept(keep: Path) -> dict[str, str]:
    file = keep / _DIGESTS
    told: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return told


def _file(keep: Path, name: str) -> Path:
    return keep / f"{name.replace('/', '-')}.json"


def _measure(folder: Path, name: str, watched: list[str], keep: Path) -> None:
    part = _file(keep, name).with_suffix(".part")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not vm"]
    command += [
        "-p",
        "tests.mutants.reach_plugin",
        "--reach",
        str(part),
        SUITE if name == _SUITE else name,
    ]
    command += [word for pattern in watched for word in ("--watch", pattern)]
    done = children.run(command, timeout_s=_LIMIT_S, cwd=folder)
    if done.returncode not in (0, 1) or not part.exists():
        raise NotMeasured(f"{name}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
    part.rename(_file(keep, name))
