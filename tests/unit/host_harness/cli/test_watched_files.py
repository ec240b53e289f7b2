# SPDX-License-Identifier: Apache-2.0
"""Changes of files are seen once, and when the editor has finished."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import watched_files
from dma_rehearsal.host_harness.cli.watched_files import Snapshot, Stamp, WatchedFiles, snapshot

A, B = Path("/a.py"), Path("/b.py")


class Scene:
    """Files and a clock that the test moves."""

    def __init__(self, *names: Path) -> None:
        self.now = 0.0
        self.files: dict[Path, Stamp] = {name: Stamp(1, 10, 1) for name in names}
        self.watched = WatchedFiles(self.look, lambda: self.now)

    def look(self) -> Snapshot:
        return dict(self.files)

    def write(self, name: Path, size: int = 10) -> None:
        """Write as an editor that renames: a new inode each time."""
        before = self.files.get(name, Stamp(0, 0, 0))
        self.files[name] = Stamp(before.modified_ns + 1, size, before.inode + 1)

    def after(self, seconds: float) -> set[Path]:
        self.now += seconds
        return set(self.watched.changes())


def test_change_is_reported_once_when_it_is_settled() -> None:
    scene = Scene(A, B)
    assert scene.after(1) == set()
    scene.write(A)
    assert scene.after(0.1) == set(), "it may go on"
    assert scene.after(0.05) == {A}
    assert scene.after(1) == set()


def test_pause_is_shorter_while_a_change_settles() -> None:
    scene = Scene(A)
    assert scene.watched.pause_s == pytest.approx(0.1)
    scene.write(A)
    scene.after(0.1)
    assert scene.watched.pause_s == pytest.approx(0.05)
    scene.after(0.05)
    assert scene.watched.pause_s == pytest.approx(0.1)


def test_slow_looks_are_made_less_often() -> None:
    scene = Scene(A)

    def slow() -> Snapshot:
        scene.now += 0.05
        return dict(scene.files)

    watched = WatchedFiles(slow, lambda: scene.now)
    watched.changes()
    assert watched.pause_s == pytest.approx(1.0)


def test_write_rename_write_is_one_change() -> None:
    scene = Scene(A)
    del scene.files[A]  # the editor has moved it away
    assert scene.after(0.05) == set()
    assert scene.after(0.2) == set(), "it is likely to come back"
    scene.write(A, size=0)
    assert scene.after(0.2) == set(), "it is empty: the editor has just opened it"
    scene.write(A)
    assert scene.after(0.05) == set()
    assert scene.after(0.05) == {A}


def test_file_that_comes_back_as_it_was_is_no_change() -> None:
    scene = Scene(A)
    kept = scene.files.pop(A)
    assert scene.after(0.1) == set()
    scene.files[A] = kept
    assert scene.after(1) == set()
    assert scene.after(1) == set()


def test_removed_file_is_a_change() -> None:
    scene = Scene(A, B)
    del scene.files[A]
    assert scene.after(0.1) == set()
    assert scene.after(0.5) == {A}
    assert len(scene.watched) == 1


def test_many_files_are_one_change() -> None:
    names = [Path(f"/{number}.py") for number in range(20)]
    scene = Scene(*names)
    for name in names:
        scene.write(name)
        assert scene.after(0.06) == set(), "a checkout goes on"
    assert scene.after(0.2) == set()
    assert scene.after(0.3) == set(names)


def test_file_that_never_rests_is_reported() -> None:
    scene = Scene(A)
    reported = []
    for _ in range(200):
        scene.write(A)
        reported += [scene.now] if scene.after(0.04) else []
    assert len(reported) == 1
    assert reported[0] == pytest.approx(5.1, abs=0.2)


def test_moment_of_a_change_is_when_it_was_first_seen() -> None:
    scene = Scene(A)
    scene.now = 7.0
    scene.write(A)
    scene.after(0)
    scene.write(A)
    scene.after(0.04)
    assert scene.after(0.1) == {A}
    assert scene.watched.changed_at == 7.0


@pytest.mark.parametrize(
    "name", [".git", ".test_a.py.swp", "test_a.py~", "#a.py#", "4913", "__pycache__", "a.pyc"]
)
def test_what_editors_and_python_write_is_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.py").touch()
    before = snapshot([tmp_path])
    folder = tmp_path / name
    if name in (".git", "__pycache__"):
        folder.mkdir()
        folder /= "index"
    folder.write_text("x")
    assert snapshot([tmp_path]) == before
    assert [path.name for path in before] == ["a.py"]


def test_place_is_watched_whatever_its_name_is(tmp_path: Path) -> None:
    hidden = tmp_path / ".mine"
    hidden.mkdir()
    (hidden / "a.py").touch()
    assert list(snapshot([hidden])) == [hidden / "a.py"]


def test_each_kind_of_write_changes_the_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("one")
    os.utime(file, ns=(1, 1))
    seen = [snapshot([tmp_path])]

    def look() -> None:
        seen.append(snapshot([tmp_path]))

    file.write_text("two")
    look()
    other = tmp_path / ".a.py.new"
    other.write_text("two")
    status = file.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)
    look()
    file.unlink()
    look()
    assert all(one != other for one, other in pairwise(seen))
    assert watched_files.differing(seen[0], seen[-1]) == {file}
    assert snapshot([file]) == {}, "a place that is not there"


def test_links_are_followed_once_and_some_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("tests", "shared", "tests/runs"):
        (tmp_path / name).mkdir()
    for name in ("tests/test_a.py", "shared/helper.py", "tests/runs/log"):
        (tmp_path / name).touch()
    (tmp_path / "tests" / "shared").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "back").symlink_to(tmp_path / "tests")
    found = snapshot([tmp_path / "tests"], left_out=[tmp_path / "tests" / "runs"])
    assert {str(path.relative_to(tmp_path)) for path in found} == {
        "tests/test_a.py",
        "tests/shared/helper.py",
    }
