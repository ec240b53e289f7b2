# SPDX-License-Identifier: Apache-2.0
"""Two runs compared row by row: a guest that is restored must say what one that boots cold says.

Both runs have the same options, seed and tests. Compared are the tests and their order, their
outcomes, the rows of the table, the counts, the tests that are left out, the complaints, and what
the devices' traces have of each test.

These may differ, and are masked or left out: addresses, numbers within what was attested (memory
that is scattered in another way takes another number of DMAs), sequence numbers and times. Events
that follow how memory is scattered are compared by their kinds; all others are counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session import verdict_record
from tests.runs import Run, run

_COUNTS = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed")
_LEFT_OUT = re.compile(r"left out: (\d+) tests (.+)$", re.M)
# Of what was asked: addresses, the agent's process, and descriptors that another CPU rewrites.
_NOT_ASKED = re.compile(r"0x[0-9a-f]+|\b(?<=task )\d+|\b\d+(?= descriptors that change)")
# Addresses, dumps of bytes, checksums, numbers; with "DMAs", whose number a plural shows.
_NUMBER = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{2}(?: [0-9a-f]{2}){3,}\b|\b[0-9a-f]{8}\b"
    r"|\b\d+(?:\.\d+)?(?: DMAs?\b)?"
)
_SEVERAL = re.compile(r"'#'(?:, '#')+")  # a list that is as long as memory is scattered
_PARTS = re.compile(r"(; # bytes [^;]+)\1+")  # one for each part of memory, all alike
# A buffer is in as many segments as the kernel's memory has at that moment, some tests ask again
# until something has happened, and an interrupt that comes meanwhile is masked by a command. So
# these events are compared by kind, and not by number.
_AS_OFTEN_AS_IT_TAKES = ("dma", "request", "grant", "withdraw", "command")
# The fields of an event that make its kind. Others are addresses, numbers, times and contents.
_KIND = (
    *("device", "event", "kind", "command", "status", "reason", "direction", "write", "state"),
    *("value", "interrupt", "vector", "enabled", "level", "missing", "by", "last"),
)
_SHOWN = 40  # differences in a message

COLD, BOOTED, COLLECTED = "cold", "booted", "collected"
EACH = (COLD, BOOTED, COLLECTED)
_TRIES = 4  # one may have to boot to make the states


@dataclass(frozen=True, slots=True)
class Tested:
    """A test of a run: its outcome, its rows of the table, and the kinds of its devices' events.

    ``kinds`` has the number of events of each kind, and 1 for those that are not counted.
    """

    outcome: str
    rows: Sequence[str] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """The part of a run that does not depend on how its guest has started; in the tests' order."""

    name: str
    status: int
    tests: Mapping[str, Tested]
    counts: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    complaints: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, run: Run) -> Record:
        """Return the record of a run, from its folder and from what it printed."""
        facts = run.attestations
        try:
            verdicts = verdict_record.read(run.folder)
        except NoVerdict:
            verdicts = {}
        rows: dict[str, list[str]] = {nodeid: [] for nodeid in verdicts}
        for row in facts["promises"]:
            rows.setdefault(row["test"], []).append(_told(row))
        kinds = _kinds(run.folder)
        tests = {
            nodeid: Tested(
                verdicts[nodeid].outcome if nodeid in verdicts else verdict_record.DID_NOT_RUN,
                told,
                kinds.get(nodeid, {}),
            )
            for nodeid, told in rows.items()
        }
        said = f"{run.output}\n{run.errors}"
        return cls(
            name,
            run.status,
            tests,
            {each: facts[each] for each in _COUNTS},
            {why: int(count) for count, why in _LEFT_OUT.findall(said)},
            [masked(line) for line in run.complaints],
        )


def masked(text: str) -> str:
    """Return a text without addresses, numbers and the contents of memory."""
    return _PARTS.sub(r"\1", _SEVERAL.sub("'#'", _NUMBER.sub("#", text)))


def _told(row: Mapping[str, Any]) -> str:
    """Return a row of the table as text; what was asked keeps most of its numbers."""
    asked = _NOT_ASKED.sub("#", row["asked"])
    others = {
        "attested": row["attested"],
        "reason": row["reason"],
        **{f"fact {name}": text for name, text in sorted(row["facts"].items())},
        "expected to fail": row["xfail"],
    }
    parts = [f"{name}: {masked(text)}" for name, text in others.items() if text]
    return "; ".join([f"{row['promise']}: {row['verdict']} by the {row['by']}, {asked!r}", *parts])


def _kinds(folder: Path) -> dict[str, Counter[str]]:
    """Return the kinds of events of each test; those before and after all tests are no test's."""
    found: dict[str, Counter[str]] = {}
    for path in sorted([folder / "device-trace.jsonl", *folder.glob("vm*/device-trace.jsonl")]):
        for line in path.read_text().splitlines() if path.exists() else ():
            event = json.loads(line)
            if event.get("test") is None:
                continue
            kinds = found.setdefault(event["test"], Counter())
            kind = " ".join(f"{name}={event[name]}" for name in _KIND if name in event)
            kinds[kind] = 1 if event["event"] in _AS_OFTEN_AS_IT_TAKES else kinds[kind] + 1
    return found


def differences(one: Record, other: Record) -> list[str]:
    """Return each difference as a line of text that names the test and both runs."""
    return [
        *_of_values("status", one, other, one.status, other.status),
        *_of_mappings("count of tests", one, other, one.counts, other.counts),
        *_of_mappings("count of tests left out", one, other, one.left_out, other.left_out),
        *_of_lists("complaint", one, other, one.complaints, other.complaints),
        *_of_order(one, other),
        *_of_tests(one, other),
    ]


def _of_order(one: Record, other: Record) -> Iterator[str]:
    """Yield the first place at which the tests that both have are in another order."""
    here, there = (
        [test for test in first.tests if test in second.tests]
        for first, second in ((one, other), (other, one))
    )
    for place, (test, instead) in enumerate(zip(here, there, strict=True), 1):
        if test != instead:
            yield from _of_values(f"order, place {place}", one, other, test, instead)
            return


def _of_tests(one: Record, other: Record) -> Iterator[str]:
    for test in dict.fromkeys([*one.tests, *other.tests]):
        here, there = one.tests.get(test), other.tests.get(test)
        if here is None or there is None:
            yield f"{test}: only in the run {(one if there is None else other).name}"
            continue
        yield from _of_values(f"{test}: outcome", one, other, here.outcome, there.outcome)
        yield from _of_lists(f"{test}: row", one, other, here.rows, there.rows)
        yield from _of_mappings(f"{test}: events", one, other, here.kinds, there.kinds)


def _of_values(what: str, one: Record, other: Record, here: object, there: object) -> Iterator[str]:
    if here != there:
        yield f"{what}: {one.name}: {here}; {other.name}: {there}"


def _of_lists(
    what: str, one: Record, other: Record, here: Sequence[str], there: Sequence[str]
) -> Iterator[str]:
    for number, (each, instead) in enumerate(zip_longest(here, there, fillvalue="missing"), 1):
        yield from _of_values(f"{what} {number}", one, other, each, instead)


def _of_mappings(
    what: str, one: Record, other: Record, here: Mapping[str, int], there: Mapping[str, int]
) -> Iterator[str]:
    for name in dict.fromkeys([*here, *there]):
        yield from _of_values(f"{what}, {name}", one, other, here.get(name, 0), there.get(name, 0))


def run_each_start(
    start: Callable[[str], Run],
    due: Sequence[str] = EACH,
    save: Callable[[], object] = lambda: None,
) -> list[Run]:
    """Call ``start`` with a value of STATE until there is a run of each start; the first is cold.

    A run that does not find its state saves one for the next; it is among the runs, too. One with a
    fault saves none, so ``save`` has another run do it.
    """
    runs = [start("no")]
    for _ in range(_TRIES):
        missing = {*due} - {each.start for each in runs}
        if not missing:
            break
        runs.append(start("auto" if COLLECTED in missing else "booted"))
        if runs[-1].start == COLD:
            save()
    starts = [each.start for each in runs]
    assert starts[0] == COLD, runs[0].complaints
    assert {*starts} >= {*due}, f"of {', '.join(due)} there are the starts {', '.join(starts)}"
    return runs


def save_booted(folder: Path, iommu: str = "") -> Run:
    """Have a run without a fault save a booted state; it runs no test."""
    return run(folder, "--collect-only", "suite/test_device.py", STATE="booted", IOMMU=iommu)


def records(runs: Sequence[Run]) -> list[Record]:
    """Return the records of runs, named by their starts; two of one start by numbers, too."""
    seen: Counter[str] = Counter()
    found = []
    for each in runs:
        seen[each.start] += 1
        number = f" {seen[each.start]}" if seen[each.start] > 1 else ""
        found.append(Record.of(f"{each.start}{number}", each))
    return found


def unlike(runs: Sequence[Record]) -> str:
    """Return what differs between the first of these runs and each other; "" when all are alike.

    ValueError when there is nothing to compare.
    """
    first, *others = runs
    if not (first.tests or first.complaints):
        raise ValueError(f"the run {first.name} has nothing to compare")
    found = [line for each in others for line in differences(first, each)]
    more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n".join([*found[:_SHOWN], *more])
