# SPDX-License-Identifier: Apache-2.0
"""A project of a few lines, of whose mutants one test kills all but those it cannot know of."""

from __future__ import annotations

import json
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants import candidates, outcome, reach_plugin, tree
from tests.mutants.judge import Judge
from tests.mutants.reach import Reach
from tests.mutants.unseen import Unseen

MODULE = '''"""A module."""
from __future__ import annotations

LIMIT: int | None = None


def double(value: int | float) -> int:
    """Return twice the value; nobody tests what is below nothing."""
    if value < 0:
        raise ValueError(f"{value + 1} is below nothing")
    while value != value:
        pass
    return value * 2
'''
TEST = """from small import thing


def test_double():
    assert [thing.double(value) for value in (1, 3, 100)] == [2, 6, 200]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tests.mutants.judge._START_S", 4)  # a hang is waited for
    for name, text in {
        "small/__init__.py": "",
        "small/thing.py": MODULE,
        "tests/unit/test_thing.py": TEST,
        "tests/mutants/reach_plugin.py": Path(reach_plugin.__file__).read_text(),
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
        ".gitignore": "/build/\n__pycache__/\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def run(project: Path, **options: object) -> dict[str, Any]:
    words: dict[str, Any] = {"count": 100, "seed": 1, "seconds": 600, "jobs": 2, "vm": False}
    mutants.run(project, ["small"], Namespace(**words | {"again": False} | options))
    told: dict[str, Any] = json.loads((project / "build/mutants/report.json").read_text())
    return told


def test_killed_hanging_and_survived_are_told_apart(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(project)
    by_line: dict[int, set[str]] = {}
    for each in told["mutants"]:
        by_line.setdefault(each["line"], set()).add(each["outcome"])
    assert by_line.keys() == {9, 11, 13}  # no annotation, and no text of an error
    assert by_line[13] == {"killed"}
    assert by_line[11] == {"hang", "survived"}
    assert by_line[9] == {"killed", "survived"}
    assert told["sampled"] == told["judged"] == len(told["mutants"])
    said = capsys.readouterr().out
    assert "small/thing.py:9 in double" in said
    assert (project / "small/thing.py").read_text() == MODULE


@pytest.mark.full
def test_again_tries_what_was_left_with_the_tests_of_now(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "small/thing.py").write_text(MODULE.replace("while value != value", "while False"))
    left = [each for each in run(project)["mutants"] if each["outcome"] == "survived"]
    assert left
    newer = "def test_below():\n    with pytest.raises(ValueError):\n        thing.double(-1)\n"
    text = f"import pytest\n{TEST}\n\n{newer}"
    (project / "tests/unit/test_thing.py").write_text(text)
    capsys.readouterr()
    told = run(project, again=True)
    assert sum(each["outcome"] == "survived" for each in told["mutants"]) < len(left)
    assert told["sampled"] == told["judged"] == len(told["mutants"])
    said = capsys.readouterr().out
    assert f"\n1/{len(left)} " in said
    assert f"{told['sampled'] - len(left)} of them dead by an earlier run" in said


def test_time_is_kept_and_the_part_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(project, seconds=0)
    assert told["judged"] == 0 < told["sampled"]
    assert f"0 of {told['sampled']} judged" in capsys.readouterr().out


def test_tests_that_do_not_run_are_an_error(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "tests/unit/test_thing.py").write_text("import nothing_of_this_name\n")
    words = Namespace(count=9, seed=1, seconds=600, jobs=1, vm=False, again=False)
    assert mutants.run(project, ["small"], words) == 2
    assert "nothing_of_this_name" in capsys.readouterr().err


def test_vm_of_a_mutant_saves_no_state(project: Path) -> None:
    (mutant, *_) = candidates.sample(project, ["small"], 1, 1)
    *_, last = Judge(project, Reach(), vm=True)._stages(mutant)
    assert last.name == "VM"
    assert last.command[:2] == ["env", "STATE=no"]


def test_a_reason_is_found_by_the_diff_and_not_by_the_line(project: Path) -> None:
    (mutant, *_) = candidates.sample(project, ["small"], 1, 1)
    listed = project / "survivors.toml"
    listed.write_text(
        f"[[survivor]]\nfile = '{mutant.candidate.file}'\nfunction = 'double'\n"
        f"diff = '''\n{mutant.diff}\n'''\nreason = 'a reason'\n"
    )
    known = outcome.reasons(listed)
    assert outcome.reason_of(mutant, known) == "a reason"
    (project / "small/thing.py").write_text("# a new line\n" + MODULE)
    (moved, *_) = candidates.sample(project, ["small"], 1, 1)
    assert moved.candidate.line == mutant.candidate.line + 1
    assert outcome.reason_of(moved, known) == "a reason"
    assert outcome.reasons(project / "none.toml") == []


def test_seed_draws_the_sample(project: Path) -> None:
    def draw(seed: int) -> list[str]:
        return [each.diff for each in candidates.sample(project, ["small"], 3, seed)]

    assert draw(1) == draw(1)
    assert any(draw(seed) != draw(1) for seed in range(2, 8))


@pytest.mark.parametrize(
    ("code", "mutated"),
    [
        ("check(x)\n", {"pass\n"}),
        ("x = check(y)\n", set()),
        ("for x in y:\n    x = 1\n", {"for x in list(y)[:-1]:", "for x in list(y)[1:]:"}),
    ],
)
def test_operators_of_our_own(tmp_path: Path, code: str, mutated: set[str]) -> None:
    (tmp_path / "module.py").write_text(code)
    found = [
        candidates.make(tmp_path, each)
        for each in candidates.of_area(tmp_path, "module.py", seed=1)
        if each.operator.startswith("driver/")
    ]
    assert {
        each.source.splitlines()[0] + "\n" * code.startswith("c") for each in found if each
    } == mutated


def test_marks_of_a_signature_are_no_operators(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f(a, /, *, b=2 * 3): return a * b\n")
    found = candidates.of_area(tmp_path, "module.py", seed=1)
    assert {each.start[1] for each in found} == {17, 19, 21, 34}


def test_what_an_import_runs_is_every_tests_of_its_module(tmp_path: Path) -> None:
    """Whichever test was the first to import it."""
    code = "X = 1\n@a\ndef f(x=2, y=lambda: 3):\n    return [4 for _ in z]\nclass A:\n    y = 5\n"
    (tmp_path / "module.py").write_text(code)
    found = list(candidates.of_area(tmp_path, "module.py", seed=1))
    lines = {(each.line, each.start[1]): each.in_body for each in found}
    assert lines == {
        (1, 4): False,
        (2, 0): False,
        (3, 8): False,
        (3, 21): True,
        (4, 12): True,
        (6, 8): False,
    }
    reached = Reach(seconds={"a::x": 1, "b::x": 2}, lines={"module.py": {1: {"a::x"}, 4: {"b::x"}}})
    for each in found:
        assert reached.of(each) == (["b::x"] if each.line == 4 else ["a::x", "b::x"])


@pytest.fixture
def unseen() -> Unseen:
    return Unseen(
        "from enum import Flag\n"
        "Alias = int | bytes | None\n"
        "MASK = Flag.A | Flag.B\n"
        "@final\n"
        "class A:\n"
        "    x: int | None = 1 | 2\n"
        "    def __repr__(self) -> str: return str(1 + 2)\n"
        "    def f(self, é: int | None) -> None:\n"
        "        raise ValueError(f'{1 + 2}', 1 + 2)\n"
        "        log.info('%s', 1 + 2)\n"
    )


@pytest.mark.parametrize(
    ("line", "column", "is_unseen"),
    [
        *((2, 12, True), (3, 14, False), (4, 0, True)),
        *((6, 11, True), (6, 22, False), (7, 45, True)),
        *((8, 22, True), (9, 30, True), (9, 39, False), (10, 25, True)),
    ],
)
def test_what_cannot_be_seen(unseen: Unseen, line: int, column: int, is_unseen: bool) -> None:
    assert (((line, column), (line, column + 1)) in unseen) is is_unseen


def test_a_mutant_is_compiled_anew(project: Path) -> None:
    copy = project / "build" / "copy"
    tree.copy(project, copy)
    assert not (copy / "build").exists()
    times = []
    for _ in range(2):
        with tree.mutated(copy, "small/thing.py", MODULE):
            times.append((copy / "small/thing.py").stat().st_mtime)
    assert times[0] != times[1]
    assert (copy / "small/thing.py").stat().st_mtime == (project / "small/thing.py").stat().st_mtime
    shutil.rmtree(copy)
