# SPDX-License-Identifier: Apache-2.0
"""Shows where each fault, promise and report is proved to fire: ``python -m tests.proofs``.

A check that nothing can make fail is not a check. So each fault of the table, each promise (a row
of the verdict's table) and each report (of the cache model, or the reason of a refused DMA) needs a
test that makes it fire, and a right neighbour that stays green. Nothing here lists them: faults
come from their table, promises from the marks of the guest's suite, reports from their enums.

A host test says with a mark what it proves:

    @pytest.mark.fires("fault", neighbour="test_sound_devices")

The arguments name parameters of the test, whose values are faults or promises; or they are faults
or promises themselves. A test that proves a fault proves the promises that the fault breaks, except
those of ``without``.
``neighbour`` is the test that stays green without the fault: a node id or a function of the same
file. A test without ``neighbour`` clears the fault and runs again itself.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import pytest

from dma_rehearsal.device.layout import CacheReportKind, DmaReason
from dma_rehearsal.device.layout.faults import BY_NAME, Fault
from dma_rehearsal.guest.session import marked_promises

ROOT = Path(__file__).resolve().parent.parent
GUEST = ROOT / "guest"
SUITE = GUEST / "suite"
MARK = "fires"
# The neighbours of reports: right drivers get none from the cache model, and nothing that the
# tests of sound devices do is refused but what they announce.
RIGHT_DRIVERS = "right drivers"
SOUND_DEVICES = "tests/inprocess/test_whole_suite.py::test_sound_devices"


class Subject(NamedTuple):
    """A fault, a promise or a report, which must fire."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that makes a subject fire, and the test that stays green. Node ids."""

    test: str
    neighbour: str


@dataclass(slots=True)
class Proofs:
    """The subjects, their proofs, and all tests that were collected, without their parameters."""

    subjects: list[Subject] = field(default_factory=list)
    tests: set[str] = field(default_factory=set)
    found: dict[Subject, list[Proof]] = field(default_factory=dict)

    def add(self, subject: Subject, proof: Proof) -> None:
        """Add a proof."""
        self.found.setdefault(subject, []).append(proof)

    def missing(self) -> Iterator[str]:
        """Yield each subject without a proof, or without a neighbour that was collected."""
        for subject in self.subjects:
            proofs = self.found.get(subject, [])
            if not proofs:
                yield f"{subject.kind} {subject.name!r}: no test makes it fire"
            elif not any(function_of(each.neighbour) in self.tests for each in proofs):
                neighbours = ", ".join(sorted({each.neighbour for each in proofs}))
                yield f"{subject.kind} {subject.name!r}: the neighbour is missing: {neighbours}"

    def lines(self) -> Iterator[str]:
        """Yield the table: a line for each subject, then its tests and their neighbours."""
        for subject in self.subjects:
            yield f"{subject.kind}: {subject.name}"
            shown: dict[tuple[str, str], int] = {}
            for each in self.found.get(subject, []):
                neighbour = "itself" if each.neighbour == each.test else each.neighbour
                key = function_of(each.test), neighbour
                shown[key] = shown.get(key, 0) + 1
            for (test, neighbour), count in shown.items():
                times = f" (x{count})" if count > 1 else ""
                yield f"    {test}{times}; stays green: {neighbour}"


def function_of(nodeid: str) -> str:
    """Return a node id without its parameters."""
    return nodeid.partition("[")[0]


class _Collected:
    """A plugin that keeps what pytest collects."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the guest's tests before those for other machines are left out."""
        self.items = [*items]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the host's tests that are selected."""
        if session.config.option.markexpr:
            self.items = [*session.items]


def collect(arguments: Iterable[str], *plugins: object) -> list[pytest.Item]:
    """Return the tests that pytest collects. RuntimeError when it cannot."""
    kept = _Collected()
    options = ["--collect-only", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main([*options, *arguments], plugins=[kept, *plugins])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest could not collect, status {status}:\n{said.getvalue()}")
    return kept.items


def guest_tests() -> list[pytest.Item]:
    """Return all tests of the guest's suite, for whichever machine."""
    fixed = ["-c", os.devnull, "--rootdir", str(GUEST), "--import-mode=importlib", "-m", ""]
    return collect([*fixed, "-p", "dma_rehearsal.guest.testkit.plugin", str(SUITE)])


def host_tests(expression: str) -> list[pytest.Item]:
    """Return the host's tests of a mark expression, of files with proofs or their neighbours."""
    files = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if f"mark.{MARK}" in path.read_text() or path == ROOT / SOUND_DEVICES.partition("::")[0]
    ]
    return collect(["-m", expression, *map(str, files)])


def named(item: pytest.Item, argument: str) -> Iterator[Subject]:
    """Yield the subjects that an argument of the mark names. ValueError for none."""
    parameters = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    yield from _subjects(parameters.get(argument, argument))


def _subjects(value: object) -> Iterator[Subject]:
    if isinstance(value, Fault):
        value = value.name
    if isinstance(value, str):
        if value in BY_NAME:
            yield Subject("fault", value)
            yield from (Subject("promise", each) for each in BY_NAME[value].promises)
        else:
            yield Subject("promise", value)
    elif isinstance(value, Collection):
        for each in value:
            yield from _subjects(each)
    elif value is not None:  # None: the sound neighbour among the parameters
        raise ValueError(f"{value!r} names neither a fault nor a promise")


def proofs_of(item: pytest.Item) -> Iterator[tuple[Subject, Proof]]:
    """Yield what a host test proves."""
    for mark in item.iter_markers(MARK):
        neighbour = str(mark.kwargs.get("neighbour", item.nodeid))
        if "::" not in neighbour:
            neighbour = f"{item.nodeid.partition('::')[0]}::{neighbour}"
        for argument in mark.args:
            for subject in named(item, argument):
                if subject.name not in mark.kwargs.get("without", ()):
                    yield subject, Proof(item.nodeid, neighbour)


def reports_in(source: str, enum: type[Enum]) -> dict[str, set[str]]:
    """Return, for each test function of a module, the members of ``enum`` that it names.

    It names them itself or by a constant of its module.
    """
    tree = ast.parse(source)
    aliases = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.name == enum.__name__
    }

    def members(node: ast.AST) -> set[str]:
        return {
            each.attr
            for each in ast.walk(node)
            if isinstance(each, ast.Attribute)
            and isinstance(each.value, ast.Name)
            and each.value.id in aliases
        }

    constants = {
        target.id: members(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            by_constant = [constants[name] for name in used if name in constants]
            found[node.name] = members(node).union(*by_constant) & set(enum.__members__)
    return found


def gather(expression: str) -> Proofs:
    """Return all subjects, and the proofs among the host's tests of a mark expression."""
    guest = guest_tests()
    promises = {name: None for item in guest for name in marked_promises(item)}
    broken = (name for fault in BY_NAME.values() for name in fault.promises)
    made = Proofs([Subject("fault", each) for each in BY_NAME])
    made.subjects += [Subject("promise", each) for each in dict.fromkeys([*promises, *broken])]
    for item in host_tests(expression):
        made.tests.add(function_of(item.nodeid))
        for subject, proof in proofs_of(item):
            made.add(subject, proof)
    right = next(each.nodeid for each in guest if RIGHT_DRIVERS in marked_promises(each))
    _add_reports(made, CacheReportKind, f"guest/{right}")
    _add_reports(made, DmaReason, SOUND_DEVICES)
    return made


def _add_reports(made: Proofs, enum: type[Enum], neighbour: str) -> None:
    made.subjects += [Subject(enum.__name__, each) for each in enum.__members__ if each != "NONE"]
    for path in sorted([*SUITE.glob("test_*.py"), *(ROOT / "tests" / "unit").rglob("test_*.py")]):
        for function, names in reports_in(path.read_text(), enum).items():
            test = f"{path.relative_to(ROOT)}::{function}"
            made.tests.add(test)
            for name in sorted(names):
                made.add(Subject(enum.__name__, name), Proof(test, neighbour))


def main(argv: list[str]) -> int:
    """Print the table; return 1 when a subject is proved nowhere."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("-m", dest="expression", default="", help="pytest's mark expression")
    parser.add_argument("-q", dest="quiet", action="store_true", help="print what is missing only")
    options = parser.parse_args(argv)
    made = gather(options.expression)
    if not options.quiet:
        print(*made.lines(), sep="\n")
    missing = [*made.missing()]
    print(*missing, f"{len(made.subjects)} subjects, {len(missing)} without a proof", sep="\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
