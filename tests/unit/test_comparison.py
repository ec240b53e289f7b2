# SPDX-License-Identifier: Apache-2.0
"""The comparison of two runs: it says each difference in words, and leaves out what may differ."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.comparison import Record, differences, masked, records, run_each_start, unlike
from tests.runs import Run

OUT, CACHE = "suite/test_a.py::test_out[64]", "suite/test_b.py::test_cache"
Facts = dict[str, Any]


def _row(test: str, promise: str, asked: str, attested: str, **others: object) -> Facts:
    given = {"verdict": "kept", "reason": "", "facts": {}, "by": "host", "xfail": ""}
    return {"test": test, "promise": promise, "asked": asked, "attested": attested} | given | others


def sound() -> Facts:
    """Return what a run left: its table, its verdicts, its trace and its output."""
    return {
        "attestations": {
            "passed": 2,
            "failed": 0,
            "errors": 0,
            "skipped": 0,
            "xfailed": 0,
            "xpassed": 0,
            "promises": [
                _row(OUT, "kIODirectionOut", "64 bytes at 0xc000", "64 bytes at 0xc000 in 1 DMA"),
                _row(CACHE, "kIOMapInhibitCache", "UC", "UC", facts={"agreed": "driver, host"}),
            ],
        },
        "verdicts": {
            OUT: {"outcome": "passed", "promises": {}},
            CACHE: {"outcome": "passed", "promises": {}},
        },
        "trace": [
            {"event": "reset", "device": "exerciser", "test": None, "time": 0.1},
            {"event": "grant", "device": "platform", "test": OUT, "address": "0xc000", "time": 1.0},
            {"event": "dma", "device": "exerciser", "test": OUT, "sequence": 7, "reason": "NONE"},
            {"event": "cache", "device": "platform", "test": CACHE, "command": "CLEAN", "tag": 9},
            {"event": "command", "device": "exerciser", "test": CACHE, "value": 0x102},
        ],
        "said": "[  1.0s] left out: 5 tests for a device behind an IOMMU (see IOMMU, PROFILE)\n",
    }


def record(folder: Path, name: str, facts: Facts, status: int = 0) -> Record:
    """Return the record of a run that left ``facts``."""
    run = folder / name
    run.mkdir()
    for file in ("attestations", "verdicts"):
        (run / f"{file}.json").write_text(json.dumps(facts[file]))
    lines = [json.dumps(event) for event in facts["trace"]]
    (run / "device-trace.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Record.of(name, Run(status, facts["said"], "", run))


Doctor = Callable[[Facts], object]


def _rows(facts: Facts) -> list[Facts]:
    rows: list[Facts] = facts["attestations"]["promises"]
    return rows


def _verdicts_turned(facts: Facts) -> None:
    facts["verdicts"] = dict(reversed(facts["verdicts"].items()))


def _without_a_test(facts: Facts) -> None:
    del facts["verdicts"][OUT], _rows(facts)[0]


DOCTORED: list[tuple[str, Doctor, str]] = [
    ("row", lambda run: _rows(run).pop(), f"{CACHE}: row 1: cold: kIOMap.*; restored: missing"),
    (
        "another row",
        lambda run: _rows(run).append(_row(OUT, "release", "rest", "denied")),
        re.escape(f"{OUT}: row 2: cold: missing; restored: release: kept"),
    ),
    (
        "verdict",
        lambda run: _rows(run)[0].update(verdict="unattested", reason="no DMA read it"),
        "row 1: cold: .*kept by .*; restored: .*unattested by .*reason: no DMA read it",
    ),
    ("asked", lambda run: _rows(run)[0].update(asked="65 bytes at 0xc000"), "'65 bytes at #'"),
    ("attested", lambda run: _rows(run)[1].update(attested="WB"), "attested: UC.*attested: WB"),
    ("witness", lambda run: _rows(run)[1].update(facts={"agreed": "driver"}), "agreed: driver$"),
    ("judge", lambda run: _rows(run)[0].update(by="test"), "kept by the host.*kept by the test"),
    ("xfail", lambda run: _rows(run)[0].update(xfail="known"), "expected to fail: known"),
    ("order", _verdicts_turned, re.escape(f"order, place 1: cold: {OUT}; restored: {CACHE}")),
    ("test", _without_a_test, re.escape(f"{OUT}: only in the run cold")),
    (
        "outcome",
        lambda run: run["verdicts"][OUT].update(outcome="xfailed"),
        "outcome: cold: passed; restored: xfailed",
    ),
    (
        "count",
        lambda run: run["attestations"].update(passed=3),
        "count of tests, passed: cold: 2; restored: 3",
    ),
    (
        "left out",
        lambda run: run.update(said=run["said"].replace("5 tests", "4 tests")),
        "left out, for a device behind .*: cold: 5; restored: 4",
    ),
    (
        "complaint",
        lambda run: run.update(said=run["said"] + "broken: release: 64 bytes at 0xc000\n"),
        "complaint 1: cold: missing; restored: broken: release: # bytes at #",
    ),
    (
        "event",
        lambda run: run["trace"].pop(1),
        "events, device=platform event=grant: cold: 1; .* 0",
    ),
    (
        "refusal",
        lambda run: run["trace"][2].update(reason="BUS_MASTER_OFF"),
        "reason=BUS_MASTER_OFF: cold: 0; restored: 1",
    ),
    (
        "value of the command register",  # memory space, and with I/O space and SERR#
        lambda run: run["trace"][4].update(value=0x002),
        "event=command value=258: cold: 1; restored: 0",
    ),
    (
        "count of events",
        lambda run: run["trace"].append(run["trace"][3]),
        "event=cache command=CLEAN: cold: 1; restored: 2",
    ),
]


@pytest.mark.parametrize(
    ("doctor", "words"), [pytest.param(*each, id=name) for name, *each in DOCTORED]
)
def test_difference_is_named(tmp_path: Path, doctor: Doctor, words: str) -> None:
    facts = sound()
    doctor(facts)
    cold, restored = record(tmp_path, "cold", sound()), record(tmp_path, "restored", facts)
    found = differences(cold, restored)
    assert any(re.search(words, line) for line in found), found
    assert unlike([cold, cold]) == ""
    assert unlike([cold, cold, restored]).splitlines() == found


def test_another_status_is_a_difference(tmp_path: Path) -> None:
    cold = record(tmp_path, "cold", sound())
    other = record(tmp_path, "restored", sound(), status=4)
    assert differences(cold, other) == ["status: cold: 0; restored: 4"]


def test_addresses_times_and_numbers_of_segments_may_differ(tmp_path: Path) -> None:
    facts = copy.deepcopy(sound())
    _rows(facts)[0].update(asked="64 bytes at 0xd000", attested="64 bytes at 0xd000 in 3 DMAs")
    facts["trace"][1].update(address="0xd000", time=9.0)
    facts["trace"][2].update(sequence=8)
    facts["trace"][3].update(tag=10)
    facts["trace"] += [facts["trace"][2]] * 2  # in more segments
    facts["trace"] += [facts["trace"][4]] * 2  # of interrupts
    facts["trace"].append({"event": "detach", "device": "peer", "test": None})
    cold, restored = record(tmp_path, "cold", sound()), record(tmp_path, "restored", facts)
    assert unlike([cold, restored]) == ""


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("64 bytes at 0xc000 in 1 DMA, CRC 35e47eea", "# bytes at # in #, CRC #"),
        ("the device's CRC is bbcb40e2", "the device's CRC is #"),
        ("expected 5e 8e fe ad 1f, seen 00 c1 aa ff", "expected #, seen #"),
        ("runs ['0x1000', '0x3000'] of 2.5 s", "runs ['#'] of # s"),
        ("kept x19, be added to fa ce", "kept x19, be added to fa ce"),
        (
            "read; 8 bytes at 0x1000: WB; 4 bytes at 0x3000: WB; 2 bytes at 0x5000: UC",
            "read; # bytes at #: WB; # bytes at #: UC",
        ),
    ],
)
def test_words_stay_and_what_memory_decides_is_masked(text: str, due: str) -> None:
    assert masked(text) == due


def test_runs_in_which_nothing_ran_compare_nothing(tmp_path: Path) -> None:
    empty = sound()
    empty["verdicts"], empty["attestations"]["promises"] = {}, []
    runs = [record(tmp_path, name, empty) for name in ("cold", "restored")]
    with pytest.raises(ValueError, match="the run cold has nothing to compare"):
        unlike(runs)


def test_many_differences_are_not_all_shown(tmp_path: Path) -> None:
    facts = sound()
    _rows(facts).extend([_row(OUT, "release", "rest", "denied")] * 60)
    found = unlike([record(tmp_path, "cold", sound()), record(tmp_path, "restored", facts)])
    assert found.splitlines()[-1] == "... and 20 more"


def started(folder: Path, *starts: str) -> Callable[[str], Run]:
    """Return a function that runs with a value of STATE, and starts the next time as ``starts``."""
    left = list(starts)

    def run(state: str) -> Run:
        facts = sound()
        start = "cold" if state == "no" else left.pop(0)
        facts["attestations"]["start"] = start
        name = f"{len(list(folder.iterdir()))}-{state}"
        record(folder, name, facts)
        return Run(0, facts["said"], "", folder / name)

    return run


@pytest.mark.parametrize(
    ("starts", "states"),
    [
        (["booted", "collected"], ["no", "auto", "auto"]),
        (["collected", "booted"], ["no", "auto", "booted"]),
        (["cold", "collected", "booted"], ["no", "auto", "auto", "booted"]),
    ],
    ids="-".join,
)
def test_runs_go_on_until_there_is_one_of_each_start(
    tmp_path: Path, starts: list[str], states: list[str]
) -> None:
    runs = run_each_start(started(tmp_path, *starts))
    assert [each.folder.name.partition("-")[2] for each in runs] == states
    names = [each.name for each in records(runs)]
    assert names == ["cold", *starts] if starts[0] != "cold" else ["cold", "cold 2", *starts[1:]]
    assert unlike(records(runs)) == ""


def test_start_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    words = "of cold, booted, collected there are the starts cold, booted, booted"
    with pytest.raises(AssertionError, match=words):
        run_each_start(started(tmp_path, *["booted"] * 4))


def test_run_that_saves_no_state_has_another_save_it(tmp_path: Path) -> None:
    saved: list[str] = []
    start = started(tmp_path, "cold", "booted")
    runs = run_each_start(start, ("cold", "booted"), lambda: saved.append("booted"))
    assert [each.start for each in runs] == ["cold", "cold", "booted"]
    assert saved == ["booted"]


def test_only_the_starts_that_are_due_are_had(tmp_path: Path) -> None:
    runs = run_each_start(started(tmp_path, "booted"), ("cold", "booted"))
    assert [each.start for each in runs] == ["cold", "booted"]
