# SPDX-License-Identifier: Apache-2.0
"""The differences between two runs: environment, limits, tests, and the rows of their promises."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from dma_rehearsal.host_harness.cli.diff_arguments import PARTS
from dma_rehearsal.host_harness.cli.diff_run import ComparedRun
from dma_rehearsal.host_harness.verdict import masked_text

# Of the environment: what differs between two runs of the same, and is shown with --all alone.
_NOISE = {
    *("seed", "start", "start reason", "VMs", "QEMU's origin"),
    *(f"option {name}" for name in ("seed", "state", "vms", "deadline", "keep", "gdb")),
}
_NAMES = {"kernel": "guest kernel", "kernel of": "guest kernel of"}
_TEXTS = ("verdict", "asked", "attested", "reason", "by", "xfail")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``one`` and ``other`` are None where that run lacks it altogether.

    ``test`` is a node id, "" in the environment; ``name`` what differs, such as an outcome.
    """

    part: str
    test: str
    name: str
    one: str | None
    other: str | None


def differences(
    one: ComparedRun, other: ComparedRun, *, parts: Sequence[str] = PARTS, noise: bool = False
) -> list[Difference]:
    """Return the differences in these parts, in the order of the first run's tests.

    With ``noise`` also those that two runs of the same have: addresses, times, seeds.
    """
    found = {
        "environment": lambda: _of_environment(one, other, noise=noise),
        "limits": lambda: _of_limits(one, other),
        "tests": lambda: _of_tests(one, other),
        "promises": lambda: _of_promises(one, other, noise=noise),
    }
    return [each for part in PARTS if part in parts for each in found[part]()]


def notes(one: ComparedRun, other: ComparedRun) -> list[str]:
    """Return what a reader must know about the comparison."""
    said = []
    for name, run in (("one", one), ("other", other)):
        if run.status > 1:
            said.append(f"{name} ended with status {run.status}: tests that it lacks did not run")
        if run.environment is None:
            said.append(f"{name} has no environment.json: environment and limits are not compared")
        if run.outcomes is None:
            said.append(f"{name} has no verdicts.json: its tests are those that have a promise")
    return said


def _of_environment(one: ComparedRun, other: ComparedRun, *, noise: bool) -> Iterator[Difference]:
    here, there = _conditions(one), _conditions(other)
    both = one.environment is not None and other.environment is not None
    for name in dict.fromkeys([*here, *there]):
        if (name in _NOISE or name.startswith("phase ")) and not noise:
            continue
        if not both and (name not in here or name not in there):
            continue
        if here.get(name) != there.get(name):
            yield Difference("environment", "", name, here.get(name), there.get(name))


def _conditions(run: ComparedRun) -> dict[str, str]:
    """Return the conditions of a run by name, as texts."""
    facts, whole = run.attestations, run.environment
    found = {"status": str(run.status)}
    names = {"accelerator": "accelerator", "place": "place", "vms": "VMs", "seed": "seed"}
    names |= {"start": "start", "start_reason": "start reason"}
    found |= {name: str(facts[key]) for key, name in names.items() if key in facts}
    found |= {f"phase {name}": f"{each} s" for name, each in facts.get("phases", {}).items()}
    if whole is not None:
        found["QEMU"] = whole["qemu"]["version"]
        found["QEMU's origin"] = whole["qemu"]["origin"]
        found |= {_NAMES.get(name, f"guest {name}"): each for name, each in whole["guest"].items()}
        found |= {f"package {name}": each for name, each in whole["packages"].items()}
        found |= {f"host {name}": each for name, each in whole["host"].items()}
        found |= {f"option {name}": each for name, each in whole["options"].items()}
        if whole["commit"] is not None:
            found["commit"] = whole["commit"]
    return found


def _of_limits(one: ComparedRun, other: ComparedRun) -> Iterator[Difference]:
    if one.environment is None or other.environment is None:
        return
    here, there = one.environment["profile"], other.environment["profile"]
    if here is None or there is None:
        if here != there:
            names = [each["name"] if each else None for each in (here, there)]
            yield Difference("limits", "", "profile", *names)
        return
    for name in dict.fromkeys([*here, *there]):
        values = [str(each[name]) if name in each else None for each in (here, there)]
        if values[0] != values[1]:
            yield Difference("limits", "", name, *values)


def _of_tests(one: ComparedRun, other: ComparedRun) -> Iterator[Difference]:
    if one.outcomes is None or other.outcomes is None:
        for test in dict.fromkeys([*one.rows, *other.rows]):
            if (test in one.rows) != (test in other.rows):
                said = ["attested" if test in run.rows else None for run in (one, other)]
                yield Difference("tests", test, "test", *said)
        return
    outcomes = {
        test: (one.outcomes.get(test), other.outcomes.get(test))
        for test in dict.fromkeys([*one.outcomes, *other.outcomes])
    }
    for both in (True, False):  # tests that both have come first
        for test, (here, there) in outcomes.items():
            if here != there and both is (here is not None and there is not None):
                yield Difference("tests", test, "outcome", here, there)


def _of_promises(one: ComparedRun, other: ComparedRun, *, noise: bool) -> Iterator[Difference]:
    for test in dict.fromkeys([*one.rows, *other.rows]):
        if not (_ran(one, test) and _ran(other, test)):
            continue  # the tests have that difference
        here, there = _by_promise(one, test), _by_promise(other, test)
        for promise in dict.fromkeys([*here, *there]):
            pairs = _pairs(here.get(promise, []), there.get(promise, []), noise=noise)
            for first, second in pairs:
                yield from _of_rows(test, promise, first, second, noise=noise)


def _ran(run: ComparedRun, test: str) -> bool:
    return test in run.rows or (run.outcomes is not None and test in run.outcomes)


def _by_promise(run: ComparedRun, test: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in run.rows.get(test, ()):
        found.setdefault(row["promise"], []).append(row)
    return found


def _pairs(
    here: Sequence[Row], there: Sequence[Row], *, noise: bool
) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield the rows of one promise that are to be compared with each other.

    Those that are the same leave first, then those that asked for the same belong together, then
    the others by their order.
    """

    def whole(row: Row) -> object:
        return tuple(_texts(row, noise=noise).items())

    def asked(row: Row) -> object:
        return _texts(row, noise=noise)["asked"]

    for same, key in ((True, whole), (False, asked)):
        waiting: defaultdict[object, list[Row]] = defaultdict(list)
        for row in reversed(there):
            waiting[key(row)].append(row)
        left = []
        for row in here:
            if waiting[key(row)]:
                second = waiting[key(row)].pop()
                if not same:
                    yield row, second
            else:
                left.append(row)
        unpaired = {id(row) for rows in waiting.values() for row in rows}
        here, there = left, [row for row in there if id(row) in unpaired]
    yield from zip_longest(here, there)


def _texts(row: Row, *, noise: bool) -> dict[str, str]:
    """Return the texts of a row by name, without what differs from run to run."""
    found = {name: row[name] for name in _TEXTS}
    found |= {f"fact {name}": text for name, text in sorted(row["facts"].items())}
    if noise:
        return found
    return {
        name: masked_text.asked(text)
        if name == "asked"
        else masked_text.seen_of(text, row["asked"])
        for name, text in found.items()
    }


def _of_rows(
    test: str, promise: str, first: Row | None, second: Row | None, *, noise: bool
) -> Iterator[Difference]:
    if first is None or second is None:
        told = [_told(each) if each else None for each in (first, second)]
        yield Difference("promises", test, f"{promise}: row", *told)
        return
    here, there = _texts(first, noise=noise), _texts(second, noise=noise)
    whole = [_texts(each, noise=True) for each in (first, second)]
    for name in dict.fromkeys([*here, *there]):
        if here.get(name, "") != there.get(name, ""):
            texts = [each.get(name, "") for each in whole]
            yield Difference("promises", test, f"{promise}: {name}", *texts)


def _told(row: Row) -> str:
    parts = {"asked": row["asked"], "attested": row["attested"], "reason": row["reason"]}
    words = "; ".join(f"{name}: {text}" for name, text in parts.items() if text)
    return f"{row['verdict']}; {words}" if words else str(row["verdict"])
