# SPDX-License-Identifier: Apache-2.0
"""The loop of a watch: what it runs when, with runs, files and keys that the test provides."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import command_line, watch, watched_run
from dma_rehearsal.host_harness.cli.watch import Watch
from dma_rehearsal.host_harness.cli.watch_places import Kind
from dma_rehearsal.host_harness.cli.watch_selection import Outcome
from dma_rehearsal.host_harness.cli.watched_run import Asked
from dma_rehearsal.host_harness.options.run_options import BOOTED, NO
from dma_rehearsal.host_harness.process.errors import Status

A, B = "suite/test_a.py", "suite/test_b.py"
A1, B1 = f"{A}::one", f"{B}::one"
KINDS = {
    **dict.fromkeys((A, B, "suite/conftest.py", "suite/test_new.py"), Kind.TEST),
    "iobuffer/cxx.py": Kind.GUEST,
    "my.toml": Kind.GUEST,
    "my_device.py": Kind.ENDPOINT,
    "host_harness/faults.py": Kind.HARNESS,
}
PASSED = Outcome(0, selected=(A1, B1), left_out=5, ran=(A1, B1), counted="2 passed, 0 failed")
FAILED = Outcome(1, selected=(A1, B1), left_out=5, ran=(A1, B1), failed=(B1,), folder="f")
LOST = Outcome(4)


class Places:
    """Stands for the files below ``root``, whose kinds are known."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def kind(self, path: Path) -> Kind:
        return KINDS[self.name(path)]

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


class Pipe:
    """A descriptor that is readable when the test wants it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fileno(self) -> int:
        return self.reading

    def finish(self) -> None:
        """Close the writing end, as the end of a process does."""
        if self.writing >= 0:
            os.close(self.writing)
        self.writing = -1

    def close(self) -> None:
        self.finish()
        os.close(self.reading)


class Process(Pipe):
    """A run: it has ended at once with an outcome, or goes on until it is told to end."""

    def __init__(self, outcome: Outcome | bytes | None) -> None:
        super().__init__()
        self.written = b""
        self.ended = False
        if outcome is not None:
            self.finish()
            if isinstance(outcome, Outcome):
                outcome = json.dumps(dataclasses.asdict(outcome)).encode()
            self.written = outcome

    def look(self) -> int | None:
        return 1

    def end(self, grace_s: float) -> int:
        assert grace_s > 0
        self.ended = True
        return -15


class Keyboard(Pipe):
    """A terminal's keys."""

    is_there = True

    def read(self) -> str:
        return os.read(self.reading, 1024).decode()


class Scene:
    """The watch's world. Each step is what happens when the watch looks at the files again."""

    pause_s = 0.0
    changed_at = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.steps: list[Callable[[], set[str]]] = []
        self.outcomes: list[Outcome | bytes | None] = []
        self.asked: list[Asked] = []
        self.processes: list[Process] = []
        self.keyboard = Keyboard()
        for name in KINDS:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def __len__(self) -> int:
        return 7

    def changes(self) -> frozenset[Path]:
        names = self.steps.pop(0)() if self.steps else self.key("q")
        return frozenset(self.root / name for name in names)

    def key(self, key: str) -> set[str]:
        os.write(self.keyboard.writing, key.encode())
        return set()

    def later(self, seconds: float) -> set[str]:
        self.now += seconds
        return set()

    def remove(self, name: str) -> set[str]:
        (self.root / name).unlink()
        return {name}

    def begin(self, asked: Asked) -> Process:
        self.asked.append(asked)
        self.processes.append(Process(self.outcomes.pop(0) if self.outcomes else PASSED))
        return self.processes[-1]

    def watch(self, *steps: Callable[[], set[str]]) -> Status:
        """Run the watch; after these steps the user presses q."""
        self.steps = list(steps)
        self.loop = Watch(
            Places(self.root),  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.keyboard,  # type: ignore[arg-type]
            self.begin,
            lambda: self.now,
        )
        return self.loop.run()

    @property
    def collected(self) -> list[tuple[str, ...]]:
        """What each run after the first collected."""
        return [asked.only for asked in self.asked[1:]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    scene = Scene(tmp_path)
    yield scene
    for each in (scene.keyboard, *scene.processes):
        each.close()


def changed(*names: str) -> Callable[[], set[str]]:
    return lambda: set(names)


def test_first_run_begins_at_once_and_its_status_is_the_watchs(scene: Scene) -> None:
    scene.outcomes = [FAILED]
    assert scene.watch() is Status.FAILED
    assert scene.asked == [Asked("the first run", first=True)]


@pytest.mark.parametrize(
    ("name", "only", "edited"),
    [
        (A, (A,), True),
        ("suite/test_new.py", ("suite/test_new.py",), True),
        ("suite/conftest.py", (A, B), True),
        ("iobuffer/cxx.py", (A, B), True),
        ("my.toml", (A, B), True),
        ("my_device.py", (A, B), False),
    ],
)
def test_change_reruns_what_it_may_have_changed(
    scene: Scene, name: str, only: tuple[str, ...], edited: bool
) -> None:
    scene.watch(changed(name))
    assert scene.collected == [only]
    assert scene.asked[1].edited is edited
    assert name in scene.asked[1].why


def test_new_test_file_beside_another_change_is_collected(scene: Scene) -> None:
    scene.watch(changed("iobuffer/cxx.py", "suite/test_new.py"))
    assert scene.collected == [(A, B, "suite/test_new.py")]


def test_red_then_mended_is_green(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.outcomes = [PASSED, FAILED, PASSED]
    assert scene.watch(changed("iobuffer/cxx.py"), changed(A)) is Status.PASSED
    assert scene.collected == [(A, B), (A, B)], "the test that failed is in the other file"
    said = capsys.readouterr().out
    assert said.index("status 1") < said.index(f"{A} changed") < said.rindex("status 0: 2 passed")
    assert "watching 7 files; Enter runs again, a runs all, q or Ctrl-C ends" in said


def test_file_that_is_gone_is_not_collected(scene: Scene) -> None:
    scene.watch(lambda: scene.remove(B), changed("iobuffer/cxx.py"))
    assert scene.collected == [(A,)]


def test_part_of_the_files_is_said_to_be_a_part(scene: Scene) -> None:
    scene.watch(changed(A))
    assert "1 of 2 files, a runs all" in scene.asked[1].why


@pytest.mark.parametrize(("key", "only"), [("\n", (A,)), ("\r", (A,)), ("a", ()), ("x", None)])
def test_keys_run_again_or_all(scene: Scene, key: str, only: tuple[str, ...] | None) -> None:
    scene.watch(changed(A), lambda: scene.key(key))
    assert scene.collected == [(A,)] + ([only] if only is not None else [])


def test_closed_terminal_ends_the_watch(scene: Scene) -> None:
    scene.keyboard.finish()
    scene.keyboard.read = lambda: ""  # type: ignore[method-assign]
    scene.watch(set)
    assert len(scene.asked) == 1


def test_change_during_a_short_run_waits_for_its_end(scene: Scene) -> None:
    def change_and_end() -> set[str]:
        scene.processes[0].written = json.dumps(dataclasses.asdict(PASSED)).encode()
        scene.processes[0].finish()
        return {A}

    scene.outcomes = [None]
    scene.watch(change_and_end)
    assert not scene.processes[0].ended
    assert scene.collected == [(A,)]


def test_change_ends_a_long_run(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.outcomes = [PASSED, None]
    scene.watch(
        changed("iobuffer/cxx.py"), changed(A), lambda: scene.later(1.0), lambda: scene.later(3.0)
    )
    assert scene.processes[1].ended
    assert "the run was ended" in capsys.readouterr().out
    assert scene.collected == [(A, B), (A, B)], "the change before has no verdict, so far"


def test_closed_terminal_ends_the_run(scene: Scene) -> None:
    scene.outcomes = [None]
    scene.keyboard.finish()
    scene.keyboard.read = lambda: ""  # type: ignore[method-assign]
    scene.watch(set)
    assert scene.processes[0].ended


def test_verdicts_seconds_count_from_the_change(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.changed_at = -2.5  # a run's own moments are at 0
    scene.watch(changed("my.toml"), lambda: scene.key("a"))
    said = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [each for each in said if each.endswith(" s")] == ["0.0 s", "2.5 s", "0.0 s"]


def test_quit_ends_the_run_and_keeps_the_status_before(scene: Scene) -> None:
    scene.outcomes = [FAILED, None]
    assert scene.watch(changed(A), lambda: scene.key("q")) is Status.FAILED
    assert scene.processes[1].ended


def test_interrupt_ends_the_run(scene: Scene) -> None:
    def interrupt() -> set[str]:
        raise KeyboardInterrupt

    scene.outcomes = [None]
    assert scene.watch(interrupt) is Status.NO_VERDICT
    assert scene.processes[0].ended


def test_interrupt_while_it_waits_ends_the_watch(scene: Scene) -> None:
    def interrupt() -> set[str]:
        raise KeyboardInterrupt

    assert scene.watch(lambda: set(), interrupt) is Status.PASSED


@pytest.mark.parametrize("outcome", [LOST, b"", b"{"])
def test_lost_run_is_no_end(scene: Scene, outcome: Outcome | bytes) -> None:
    scene.outcomes = [outcome, PASSED, outcome]
    assert scene.watch(changed(A), changed(A)) is Status.NO_VERDICT
    assert scene.collected == [(), (A,)], "nothing was known before the second run"


@pytest.mark.parametrize("lost", [LOST, dataclasses.replace(LOST, selected=(A1, B1), ran=(A1,))])
def test_change_without_a_verdict_is_part_of_the_next(scene: Scene, lost: Outcome) -> None:
    scene.outcomes = [PASSED, lost]
    scene.watch(changed("iobuffer/cxx.py"), changed(A), changed(A))
    assert scene.collected == [(A, B), (A, B), (A,)]


def test_empty_selection_is_said_and_does_not_count(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.outcomes = [PASSED, Outcome(2, selected=(), left_out=3)]
    assert scene.watch(changed(A)) is Status.PASSED
    assert "no test is selected" in capsys.readouterr().out


def test_change_outside_of_the_scope_runs_nothing(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.outcomes = [dataclasses.replace(PASSED, scope=(B,), selected=(B1,))]
    scene.watch(changed(A))
    assert scene.collected == []
    assert f"{A} changed: none of the selected tests is there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "outcome", [Outcome(2, refused=True), Outcome(3)], ids=["usage", "environment"]
)
def test_first_run_that_no_edit_mends_ends_the_watch(scene: Scene, outcome: Outcome) -> None:
    scene.outcomes = [outcome]
    assert scene.watch(changed(A)) == outcome.status
    assert scene.collected == []


def test_usage_error_of_a_later_run_is_no_end(scene: Scene) -> None:
    scene.outcomes = [PASSED, Outcome(2), Outcome(3)]  # a profile with a mistake, say
    assert scene.watch(changed("my.toml"), changed("my.toml"), changed(A)) is Status.PASSED
    assert len(scene.asked) == 4


def test_code_of_the_harness_has_the_watch_start_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "import_error", lambda: "")
    scene.watch(changed("host_harness/faults.py", A))
    assert scene.loop.must_restart
    assert scene.collected == []


def test_code_of_the_harness_with_a_mistake_is_shown(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "import_error", lambda: "SyntaxError: invalid syntax")
    scene.watch(changed("host_harness/faults.py"), changed(A))
    assert not scene.loop.must_restart
    assert scene.collected == [(A,)]
    assert "SyntaxError: invalid syntax" in capsys.readouterr().out


def test_harness_as_it_is_can_be_imported() -> None:
    assert watch.import_error() == ""


def test_only_folders_of_failed_runs_and_the_last_stay(scene: Scene) -> None:
    folders = [scene.root / name for name in ("1", "2", "3", "4")]
    for folder in folders:
        folder.mkdir()
    scene.outcomes = [
        dataclasses.replace(each, folder=str(folder))
        for each, folder in zip((PASSED, FAILED, PASSED, PASSED), folders, strict=True)
    ]
    scene.watch(changed(A), changed(A), changed(A))
    assert [folder.exists() for folder in folders] == [False, True, False, True]


def test_edit_of_the_guest_saves_no_state_with_collected_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert watched_run.options(7, edited=True).state == BOOTED
    assert watched_run.options(7, edited=False).state != BOOTED
    assert watched_run.options(7).seed == 7
    monkeypatch.setenv("STATE", NO)
    monkeypatch.setenv("SEED", "8")
    assert watched_run.options(8, edited=True).state == NO
    assert watched_run.options(8).seed == 8


@pytest.mark.parametrize("name", ["KEEP", "GDB"])
def test_options_for_one_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert command_line.main(["watch", "--runs", str(tmp_path)]).status is Status.USAGE
    assert "KEEP and GDB are for one run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
