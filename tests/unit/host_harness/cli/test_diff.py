# SPDX-License-Identifier: Apache-2.0
"""The comparison of two runs: each difference is told, noise is not, and nothing forges output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.cli import command_line
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    DOCUMENTS,
    ENVIRONMENT,
    VERDICTS,
)
from tests.unit.host_harness.verdict.documents.written import TEST, before_versions, sound

SECOND = "suite/test_cache.py::test_mode"
Facts = dict[str, Any]
Change = Callable[[Facts], object]


def facts() -> Facts:
    """Return what a run left, by the name of the document."""
    found = {each.name: sound(each) for each in DOCUMENTS}
    row = found["attestations"]["promises"][0]
    found["attestations"]["promises"] += [
        {**row, "promise": "alignment", "asked": "4096"},
        {**row, "promise": "alignment", "asked": "64"},
        {**row, "promise": "cache", "test": SECOND, "facts": {"agreed": "driver, host"}},
    ]
    found["verdicts"]["tests"][SECOND] = {"outcome": "passed", "promises": {}}
    return found


def run_folder(folder: Path, change: Change = lambda _facts: None) -> Path:
    """Make a run's folder; ``change`` changes what the run left, and may take documents away."""
    whole = facts()
    change(whole)
    folder.mkdir(parents=True)
    for name, document in whole.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Return the function that compares a sound run with a changed one: status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    run_folder(tmp_path / "build/runs/a")

    def run(change: Change | Path, *arguments: str) -> tuple[int, str]:
        other = change if isinstance(change, Path) else run_folder(tmp_path / "other", change)
        ending = command_line.main(["diff", "build/runs/a", str(other), *arguments])
        said = capsys.readouterr()
        return ending.status.value, said.out + said.err

    return run


def rows(whole: Facts) -> list[Facts]:
    found: list[Facts] = whole["attestations"]["promises"]
    return found


def outcomes(whole: Facts) -> Facts:
    found: Facts = whole["verdicts"]["tests"]
    return found


def environment(**changes: Any) -> Change:
    return lambda whole: whole["environment"].update(changes)


def limits(**changes: Any) -> Change:
    return lambda whole: whole["environment"]["profile"].update(changes)


def row(number: int, **changes: Any) -> Change:
    return lambda whole: rows(whole)[number].update(changes)


def guest(version: str) -> Change:
    return lambda whole: whole["environment"]["guest"].update(kernel=version)


def _without_a_test(whole: Facts) -> None:
    del outcomes(whole)[SECOND], rows(whole)[-1]


DIFFERENCES: dict[str, tuple[Change, str]] = {
    "status": (lambda whole: whole["attestations"].update(status=0), r"status +\| 1 +\| 0"),
    "accelerator": (
        lambda whole: whole["attestations"].update(accelerator="kvm"),
        r"accelerator +\| tcg +\| kvm",
    ),
    "place": (
        lambda whole: whole["attestations"].update(place="hostile"),
        r"place +\| kind +\| hostile",
    ),
    "guest's kernel": (guest("6.12.1"), r"guest kernel +\| 6.1.0 +\| 6.12.1"),
    "host's kernel": (
        environment(host={"python": "3.11.7", "kernel": "6.19"}),
        r"host kernel +\| 6.18 +\| 6.19",
    ),
    "QEMU": (environment(qemu={"version": "10", "origin": "x"}), r"QEMU +\| 11.1.2 +\| 10"),
    "commit": (environment(commit="a" * 40), r"commit +\| 12ca\w+-dirty +\| a{40}"),
    "option": (environment(options={"iommu": "intel"}), r"option iommu +\| - +\| intel"),
    "package": (environment(packages={}), r"package fio +\| 3.33-3 +\| -"),
    "limit": (limits(address_bits=24), r"address_bits +\| 0 +\| 24"),
    "coherence": (limits(coherent=False), r"coherent +\| True +\| False"),
    "profile": (environment(profile=None), r"profile +\| exerciser +\| -"),
    "outcome": (
        lambda whole: outcomes(whole)[TEST].update(outcome="failed"),
        r"test_in\[64\] +\| passed +\| failed",
    ),
    "test": (_without_a_test, r"test_mode +\| passed +\| -"),
    "verdict": (
        row(0, verdict="broken", reason="no byte"),
        r"kIODirectionIn: verdict +\| kept +\| broken",
    ),
    "asked": (row(0, asked="65 bytes"), r"kIODirectionIn: asked +\| 64 bytes +\| 65 bytes"),
    "attested": (row(0, attested="wrote 63 of 64 bytes at 0xc000"), "wrote 63 of 64 bytes"),
    "reason": (row(0, reason="unlikely"), r"kIODirectionIn: reason +\| +\| unlikely"),
    "judge": (row(0, by="test"), r"kIODirectionIn: by +\| evidence +\| test"),
    "xfail": (row(0, xfail="known"), r"kIODirectionIn: xfail +\| +\| known"),
    "fact": (row(3, facts={"agreed": "driver"}), r"agreed +\| driver, host +\| driver"),
    "row": (lambda whole: rows(whole).pop(), r"cache: row +\| kept; asked: 64 .*\| -"),
    "row of several": (lambda whole: rows(whole).pop(1), r"alignment: row +\| kept; asked: 4096"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference_is_told(compare: Callable[..., tuple[int, str]], name: str) -> None:
    change, words = DIFFERENCES[name]
    status, said = compare(change)
    assert status == 1
    assert re.search(words, said), said
    assert re.search(r"^\d+ differences?: ", said, re.M)
    assert max(map(len, said.splitlines())) <= 100


def _noise(whole: Facts) -> None:
    attested = whole["attestations"]
    attested.update(seed=8, start="collected", start_reason="", vms=2, phases={"tests": 9.5})
    rows(whole)[0].update(attested="wrote 64 of 64 bytes at 0xd000 in 3 DMAs")
    rows(whole)[1], rows(whole)[2] = rows(whole)[2], rows(whole)[1]
    whole["environment"].update(options={"seed": "8", "vms": "2"}, vms=2)
    whole["environment"]["qemu"]["origin"] = "system"


def test_noise_is_left_out(compare: Callable[..., tuple[int, str]]) -> None:
    status, said = compare(_noise)
    assert (status, "no differences\n" in said) == (0, True), said


def test_noise_is_shown_when_asked_for(compare: Callable[..., tuple[int, str]]) -> None:
    status, said = compare(_noise, "--all")
    assert status == 1
    for words in (
        *("seed", r"start ", "start reason", "VMs", "phase tests", "option seed", "QEMU's origin"),
        "kIODirectionIn:",
    ):
        assert re.search(rf"^[^|]*\|? *{words}", said, re.M), words


def test_rows_of_one_promise_are_paired_by_what_was_asked(
    compare: Callable[..., tuple[int, str]],
) -> None:
    def change(whole: Facts) -> None:
        rows(whole)[1].update(verdict="broken")
        rows(whole)[1], rows(whole)[2] = rows(whole)[2], rows(whole)[1]

    said = json.loads(compare(change, "--json")[1])["differences"]
    assert [(each["name"], each["one"], each["other"]) for each in said] == [
        ("alignment: verdict", "kept", "broken")
    ]


def test_outcomes_that_changed_come_before_tests_that_one_lacks(
    compare: Callable[..., tuple[int, str]],
) -> None:
    def change(whole: Facts) -> None:
        del outcomes(whole)[TEST]
        outcomes(whole)[SECOND]["outcome"] = "failed"

    said = compare(change, "--only", "tests")[1]
    assert said.index("test_mode") < said.index("test_in")
    assert "2 differences: tests 2" in said


def test_parts_are_chosen(compare: Callable[..., tuple[int, str]]) -> None:
    status, said = compare(guest("6.12"), "--only", "tests,promises")
    assert (status, "no differences" in said) == (0, True)
    status, said = compare(Path("other"), "--only", "tests,speed")
    assert (status, "a run has no part 'speed'" in said) == (2, True)


def test_json_has_every_difference_and_no_status(
    compare: Callable[..., tuple[int, str]],
) -> None:
    status, said = compare(guest("6.12"), "--json")
    whole = json.loads(said)
    assert (status, whole["schema"], whole["version"]) == (1, "dma-rehearsal/diff", "1.0")
    assert whole["one"] == {"name": "build/runs/a", "status": 1}
    assert whole["differences"] == [
        {
            "part": "environment",
            "test": "",
            "name": "guest kernel",
            "one": "6.1.0",
            "other": "6.12",
        }
    ]
    assert not command_line.main(["diff", "a", "a", "--json"]).said
    assert command_line.main(["diff", "a", "a"]).said


def test_board_is_compared_by_its_attestations_alone(
    compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    board = facts()["attestations"]
    for name in ("accelerator", "vms", "place", "start", "start_reason", "phases"):
        del board[name]
    path = tmp_path / "board.json"
    path.write_text(json.dumps(board))
    status, said = compare(path)
    assert status == 0, said
    assert "note: other has no environment.json" in said
    assert "note: other has no verdicts.json" in said
    board["promises"][0]["verdict"] = "broken"
    board["promises"].pop()
    path.write_text(json.dumps(board))
    said = compare(path)[1]
    assert re.search(r"kIODirectionIn: verdict +\| kept +\| broken", said)
    assert re.search(r"test_mode +\| attested +\| -", said)


def test_runs_of_before_versions_are_compared(compare: Callable[..., tuple[int, str]]) -> None:
    def change(whole: Facts) -> None:
        for each in DOCUMENTS:
            whole[each.name] = before_versions(each)
        whole["verdicts"][SECOND] = {"outcome": "passed", "promises": {}}
        whole["attestations"]["promises"] = facts()["attestations"]["promises"]

    status, said = compare(change)
    assert status == 1
    assert "2 differences: environment 1, limits 1" in said  # the commit and the profile


def test_run_without_a_verdict_is_compared_with_a_note(
    compare: Callable[..., tuple[int, str]],
) -> None:
    status, said = compare(lambda whole: whole["attestations"].update(status=4))
    assert status == 1
    assert "note: other ended with status 4: tests that it lacks did not run" in said


@pytest.mark.parametrize("name", ["a", "latest", "build/runs/a", "build/runs/a/attestations.json"])
def test_run_is_found(compare: Callable[..., tuple[int, str]], tmp_path: Path, name: str) -> None:
    (tmp_path / "build/runs/latest").symlink_to("a")
    assert compare(Path(name))[0] == 0


def _no_attestations(whole: Facts) -> None:
    del whole["attestations"]


WRONG: dict[str, tuple[Change, str]] = {
    "incomplete": (_no_attestations, r"no attestations.json, so the run has not ended"),
    "newer": (
        lambda whole: whole["attestations"].update(version="2.0"),
        r"has version 2.0, and this dma-rehearsal reads 1.x",
    ),
    "wrong": (
        lambda whole: rows(whole)[0].update(verdict=1),
        r"document.promises\[0\].verdict is not one of",
    ),
    "wrong beside": (
        lambda whole: whole["environment"].update(vms="1"),
        r"environment.json: document.vms is not of the type integer",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_run_that_cannot_be_compared_is_2(
    compare: Callable[..., tuple[int, str]], name: str
) -> None:
    change, words = WRONG[name]
    status, said = compare(change)
    assert status == 2
    assert re.search(words, said), said
    assert "next: " in said


def test_run_that_does_not_exist_is_2(
    compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, said = compare(Path("b\x1b[31m"))
    assert status == 2
    assert "there is no run 'b'" in said
    assert "such as a" in said
    status, said = compare(Path("build/runs"))
    assert (status, "so the run has not ended" in said) == (2, True)
    os.mkfifo(tmp_path / "pipe")
    assert compare(Path("pipe"))[0] == 2
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped/attestations.json")
    assert "not a regular file" in compare(Path("piped"))[1]


HOSTILE = (
    *("\x1b[2J\x1b[31mno differences", "a\n\nno differences\nstatus 0", "\u202e\u2066x", "\ud800"),
    *("x" * 100_000, "| kept | kept", "\x00\x07\r", "\u4f60" * 300),
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_forge_nothing(compare: Callable[..., tuple[int, str]], text: str) -> None:
    def change(whole: Facts) -> None:
        rows(whole)[0].update(asked=text, attested=text, promise=text)
        rows(whole)[1].update(test=text or "x")
        outcomes(whole)[text] = {"outcome": "failed", "promises": {}}
        whole["environment"]["guest"][text] = text
        whole["environment"]["profile"]["name"] = text

    status, said = compare(change)
    assert status == 1
    lines = said.splitlines()
    assert re.match(r"\d+ differences: ", lines[-1])
    assert all(line.isprintable() for line in lines)
    assert sum("no differences" in line and "|" not in line for line in lines) == 0
    assert max(map(len, lines)) <= 100
    assert len(lines) < 200


def test_many_differences_are_not_all_printed(compare: Callable[..., tuple[int, str]]) -> None:
    def change(whole: Facts) -> None:
        for number in range(5000):
            outcomes(whole)[f"suite/test_x.py::test[{number}]"] = {
                "outcome": "passed",
                "promises": {},
            }

    said = compare(change)[1]
    assert "... and 4800 more: --json has them all" in said
    assert len(said.splitlines()) < 300
    assert len(json.loads(compare(Path("other"), "--json")[1])["differences"]) == 5000


def test_long_texts_are_shown_where_they_differ(
    compare: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    long = "z" * 3000
    for folder, word in (("build/runs/b", "FIRST"), ("c", "SECOND")):
        run_folder(Path(folder), row(0, reason=f"{long} {word}"))
    said = compare(Path("c"))[1]
    assert "…" in said
    assert "SECOND" not in said  # the sound run has no reason, so they differ at once
    assert command_line.main(["diff", "b", "c"]).status.value == 1
    said = capsys.readouterr().out
    assert "FIRST" in said
    assert "SECOND" in said


def test_wrong_arguments_are_2() -> None:
    assert command_line.main(["diff", "a"]).status.value == 2
    assert command_line.main(["diff", "a", "a", "a"]).status.value == 2
    assert command_line.main(["diff", "a", "a", "--nothing"]).status.value == 2


def test_documents_of_the_test_are_those_of_a_run() -> None:
    assert set(facts()) == {each.name for each in (ATTESTATIONS, VERDICTS, ENVIRONMENT)}
