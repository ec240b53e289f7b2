# SPDX-License-Identifier: Apache-2.0
"""``make mutants``: change the code, one place at a time, and see whether a test notices.

    python -m tests.mutants [--count 300] [--seed 1] [--seconds S] [--jobs J] [--vm] [--again]

cosmic-ray makes the mutants; the seed draws a sample of them. Each is tried in a copy of the tree
under build/mutants: first by the unit tests that reach its line, then by the guest's suite in one
process, with ``--vm`` at last by a VM. ``--again`` tries just those that the last run did not kill,
and takes its measurement for what has not changed since; what that run killed is counted as dead.

The status is 1 when more survive than the goal allows, 2 when the tests do not run on the tree as
it is.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from tests.mutants import outcome, reach, tree
from tests.mutants.candidates import Mutant, sample
from tests.mutants.judge import Judge, Outcome, Verdict

AREAS = (
    *("guest/iobuffer", "device/platform", "device/endpoints", "device/pci"),
    *(
        "host_harness/verdict/ledger.py",
        "host_harness/session/schedule.py",
        "host_harness/witness/page_walk.py",
    ),
)
GOAL = 0.85
REASONS = "tests/mutants/survivors.toml"


class Session:
    """One sample, tried by several workers."""

    def __init__(self, root: Path, areas: Iterable[str], *, jobs: int, vm: bool = False) -> None:
        self._root, self._areas, self._vm = root, tuple(areas), vm
        self._folder = root / "build" / "mutants"
        self._trees = [self._folder / f"tree-{number}" for number in range(jobs)]

    def measure(self, *, again: bool = False) -> reach.Reach:
        """Copy the tree and return which tests reach what. Raise reach.NotMeasured.

        ``again``: what was measured before will do, with the modules of tests that are newer.
        """
        for folder in self._trees:
            tree.copy(self._root, folder)
        keep, now = self._folder / "reach", tree.digests(self._root)
        if again:
            return reach.kept(keep, now)
        return reach.measure(self._trees, self._areas, keep, now)

    def judge(
        self, mutants: list[Mutant], reached: reach.Reach, end: float, verdicts: list[Verdict]
    ) -> None:
        """Try the mutants one after the other, until the monotonic second ``end``.

        Each verdict is added and printed when it is there. RuntimeError when a worker fails.
        """
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in mutants:
            waiting.put(mutant)
        done: queue.SimpleQueue[Verdict | BaseException | None] = queue.SimpleQueue()

        def work(folder: Path) -> None:
            judge = Judge(folder, reached, vm=self._vm)
            try:
                while time.monotonic() < end:
                    done.put(judge.judge(waiting.get_nowait()))
            except queue.Empty:
                pass
            except BaseException as error:
                done.put(error)
            finally:
                done.put(None)

        for folder in self._trees:
            threading.Thread(target=work, args=(folder,), daemon=True).start()
        working = len(self._trees)
        while working:
            said = done.get()
            if isinstance(said, BaseException):
                raise RuntimeError("a worker failed") from said
            if said is None:
                working -= 1
                continue
            verdicts.append(said)
            print(f"{len(verdicts)}/{len(mutants)} {_line(said)}", flush=True)


def _line(verdict: Verdict) -> str:
    candidate = verdict.mutant.candidate
    place = f"{candidate.file}:{candidate.line}"
    told = f"{verdict.outcome} by {verdict.stage}"
    if verdict.outcome is Outcome.SURVIVED:
        told = verdict.outcome
    return f"{told}, {verdict.seconds:.0f} s: {place} {candidate.operator.partition('/')[2]}"


def run(root: Path, areas: Iterable[str], options: argparse.Namespace) -> int:
    """Do as the options say, and print what it came to. Return the status."""
    begin = time.monotonic()
    areas = tuple(areas)
    print(f"drawing {options.count} mutants by seed {options.seed}", flush=True)
    mutants = sample(root, areas, options.count, options.seed)
    file = root / "build" / "mutants" / "report.json"
    before = outcome.dead(file, mutants) if options.again else []
    died = {each.mutant for each in before}
    left = [mutant for mutant in mutants if mutant not in died]
    session = Session(root, areas, jobs=options.jobs, vm=options.vm)
    print("measuring which tests reach which lines", flush=True)
    try:
        reached = session.measure(again=options.again)
    except reach.NotMeasured as error:
        print(f"error: {error}\n  next: make units", file=sys.stderr)
        return 2
    for test in reached.failed:
        print(f"fails on the tree as it is, and judges nothing: {test}")
    known = outcome.reasons(root / REASONS)
    verdicts: list[Verdict] = []
    try:
        session.judge(left, reached, begin + options.seconds, verdicts)
    except KeyboardInterrupt:
        print("interrupted")
    verdicts = before + verdicts
    survivors = [each for each in verdicts if each.outcome is Outcome.SURVIVED]
    for listed in (True, False):
        of_kind = [
            each for each in survivors if bool(outcome.reason_of(each.mutant, known)) is listed
        ]
        if of_kind:
            print(f"\nsurvived, {'with a reason' if listed else 'and nobody says why'}:")
        for each in of_kind:
            print(f"\n{outcome.describe(each, known)}")
    print(f"\n{outcome.table(mutants, verdicts, known)}\n")
    file.write_text(outcome.as_json(mutants, verdicts, known))
    earlier = f", {len(before)} of them dead by an earlier run" if before else ""
    seconds = time.monotonic() - begin
    print(f"{len(verdicts)} of {len(mutants)} judged in {seconds:.0f} s{earlier}; {file}")
    return int(outcome.share(verdicts) < GOAL)


def main(argv: list[str]) -> int:
    """Run a sample on this tree."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vm", action="store_true", help="boot a VM for those that are left")
    parser.add_argument("--again", action="store_true", help="just those that the last run left")
    parser.add_argument("--area", action="append", help="just this folder or module")
    options = parser.parse_args(argv)
    os.environ["HYPOTHESIS_PROFILE"] = "full"  # of the tests that judge
    return run(Path.cwd(), options.area or AREAS, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
