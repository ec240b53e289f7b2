# SPDX-License-Identifier: Apache-2.0
"""A user's wait, from the command to the status: restored from a saved state, and booted cold.

The two take turns, so that what else the machine does slows both. Everything runs in a scratch copy
of the checkout, with edits of its own; the saved states are in the user's cache, as always.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pexpect

from tests import checkout
from tests.bench.registry import Goal, Row, at_most, benchmark
from tests.runs import clean_environment

NAME = "start"
COLD, RESTORED = "no", "auto"  # values of STATE
ROUNDS, FEW_ROUNDS, TRIES = 5, 2, 3
LIMIT_S = 900
_SHOWN_S = 0.05  # of a phase, with one decimal
ONE_TEST = ("-k", "test_in_out and 4096")
EDITED = "guest/suite/test_direction.py"
PROMPT = r"guest:\S+# "


@dataclass(frozen=True, slots=True)
class Timed:
    """A run's wall time, how its guest started, and the seconds of its phases by their names."""

    seconds: float
    start: str
    phases: dict[str, float]


@dataclass(frozen=True, slots=True)
class Turns:
    """Runs of both kinds that took turns."""

    cold: Sequence[Timed]
    restored: Sequence[Timed]

    @property
    def ratio(self) -> float:
        """The median of each turn's ratio: below 1 when a restored run is faster."""
        pairs = zip(self.restored, self.cold, strict=True)
        return statistics.median(one.seconds / other.seconds for one, other in pairs)


class Scratch:
    """A copy of the checkout in which commands are timed."""

    def __init__(self, folder: Path) -> None:
        self._folder = checkout.copy_to(folder)
        self._edits = count(1)
        self._python = Path(sys.prefix)

    def edit(self) -> None:
        """Change a file of the guest's tests, as a user does before the next run."""
        with (self._folder / EDITED).open("a") as file:
            file.write(f"\n# edit {next(self._edits)}\n")

    def test(self, state: str, *arguments: str) -> Timed:
        """Run ``make test-vm``. RuntimeError when it does not pass."""
        command = self._make("test-vm", state, f"ARGS={shlex.join(arguments)}")
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return self._timed(seconds)

    def shell(self, state: str) -> Timed:
        """Run ``make shell`` until its first prompt; then leave it."""
        command = self._make("shell", state)
        start = time.monotonic()
        child = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(self._folder),
            env=clean_environment(),
            timeout=LIMIT_S,
            encoding="utf-8",
        )
        try:
            child.expect(PROMPT)
            seconds = time.monotonic() - start
            child.sendline("exit")
            child.expect(pexpect.EOF)
        finally:
            child.close(force=True)
        return self._timed(seconds)

    def _make(self, target: str, state: str, *variables: str) -> list[str]:
        return ["make", "-s", target, f"VENV={self._python}", f"STATE={state}", *variables]

    def _timed(self, seconds: float) -> Timed:
        found = json.loads((self._folder / "build/runs/latest/attestations.json").read_text())
        return Timed(seconds, found["start"], found["phases"])


def by_turns(what: str, work: Callable[[str], Timed], rounds: int, due: str) -> Turns:
    """Return ``rounds`` runs of each kind, and print their times as they come.

    The first run, which may have to make the saved state, does not count; nor does one whose state
    another run of this machine has pruned meanwhile. RuntimeError when no start is the one ``due``.
    """
    _note(f"{what}: {rounds} times cold and restored, by turns")
    work(RESTORED)
    cold, restored = [], []
    for _ in range(rounds):
        cold.append(work(COLD))
        restored.append(_of_start(due, what, work))
        _note(f"{what}: cold {cold[-1].seconds:.1f} s, restored {restored[-1].seconds:.1f} s")
    return Turns(cold, restored)


def _of_start(due: str, what: str, work: Callable[[str], Timed]) -> Timed:
    for _ in range(TRIES):
        found = work(RESTORED)
        if found.start == due:
            return found
    raise RuntimeError(f"{what}: a guest's start was {found.start}, and not {due}")


def _note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def rows(what: str, turns: Turns, goal: Goal | None = None, share: Goal | None = None) -> list[Row]:
    """Return the table's rows: both medians with their spread and phases, and their ratio."""
    both = (("restored", turns.restored, goal), ("cold", turns.cold, None))
    return [
        *(
            Row(f"{what}, {kind}", spread(timed), median(timed), aim, "s")
            for kind, timed, aim in both
        ),
        Row(f"{what}, restored / cold", f"{len(turns.cold)} turns", turns.ratio, share),
    ]


def median(timed: Sequence[Timed]) -> float:
    """Return the median of the wall times in seconds."""
    return statistics.median(each.seconds for each in timed)


def spread(timed: Sequence[Timed]) -> str:
    """Return the shortest and longest time, and the median of each phase that takes any.

    "rest" is the time outside of all phases.
    """
    seconds = [each.seconds for each in timed]
    names = dict.fromkeys(name for each in timed for name in each.phases)
    parts = {name: statistics.median(each.phases.get(name, 0) for each in timed) for name in names}
    parts["rest"] = statistics.median(each.seconds - sum(each.phases.values()) for each in timed)
    phases = ", ".join(f"{name} {part:.1f}" for name, part in parts.items() if part >= _SHOWN_S)
    return f"{min(seconds):.1f} to {max(seconds):.1f} s: {phases}"


@benchmark("from the command to the status, restored from a saved state and booted cold, by turns")
def start() -> Iterator[Row]:
    """Time runs of one test, the same after an edit, the whole suite and a shell."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder))

        def one(state: str) -> Timed:
            return scratch.test(state, *ONE_TEST)

        def edited(state: str) -> Timed:
            scratch.edit()
            return one(state)

        turns = by_turns("one test", one, ROUNDS, "collected")
        yield from rows("one test", turns, at_most(3))
        turns = by_turns("one test after an edit", edited, ROUNDS, "booted")
        yield from rows("after an edit", turns, at_most(7))
        turns = by_turns("the suite", scratch.test, FEW_ROUNDS, "collected")
        yield from rows("the suite", turns, at_most(25), at_most(0.75))
        turns = by_turns("a shell to its prompt", scratch.shell, FEW_ROUNDS, "booted")
        yield from rows("a shell", turns)
