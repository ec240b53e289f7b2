# SPDX-License-Identifier: Apache-2.0
"""The janitor: whatever ends the harness, its groups die, its folders go, and so does it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import children, janitor

# A harness in small: a group of two processes (the inner one is not our child) and two folders.
_PARENT = """
import os, subprocess, sys, time
from pathlib import Path
from dma_rehearsal.host_harness.process import janitor
folder, kept = Path(sys.argv[1]), Path(sys.argv[2])
group = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
with janitor.guard_group(group.pid), janitor.guard_path(folder):
    with janitor.guard_path(kept):
        folder.mkdir()
        kept.mkdir()
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("x")
    (folder / "way-out").symlink_to(kept)
    (kept / "file").write_text("x")
    print(group.pid, janitor._shared.pid, flush=True)
    {end}
"""


def wait_until(what: str, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def worker() -> Iterator[janitor.Janitor]:
    with janitor.Janitor() as made:
        yield made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("time.sleep(1000)", signal.SIGKILL),
        ("time.sleep(1000)", signal.SIGTERM),  # not handled: dies without any clean-up of its own
        ("os._exit(1)", None),
    ],
)
def test_however_the_parent_ends_nothing_stays(
    tmp_path: Path, end: str, number: signal.Signals | None
) -> None:
    folder, kept = tmp_path / "folder", tmp_path / "kept"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(end=end), str(folder), str(kept)],
        cwd=SOURCE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    group, pid = (int(word) for word in parent.stdout.readline().split())
    if number is not None:
        assert janitor.group_is_alive(group)
        assert is_alive(pid)
        assert folder.is_dir()
        parent.send_signal(number)
    parent.communicate()
    wait_until("the group ends", lambda: not janitor.group_is_alive(group))
    wait_until("the folder goes", lambda: not folder.exists())
    wait_until("the janitor ends", lambda: not is_alive(pid))
    assert (kept / "file").read_text() == "x", "taken back in time, and no link was followed"


def test_signals_of_the_terminal_do_not_end_it(
    worker: janitor.Janitor, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with worker.guard_path(folder), worker.guard_group(sleeper.pid):
        assert worker.pid is not None
        assert os.getsid(worker.pid) != os.getsid(0)
        status = Path(f"/proc/{worker.pid}/status")
        ignored = sum(1 << n - 1 for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM))
        wait_until(
            "it ignores signals",
            lambda: (
                int(status.read_text().partition("SigIgn:")[2].split()[0], 16) & ignored == ignored
            ),
        )
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(worker.pid, number)
        worker.close()
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not folder.exists()


def test_what_was_taken_back_is_left_alone(
    worker: janitor.Janitor, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    with worker.guard_path(tmp_path), worker.guard_group(sleeper.pid):
        pass
    worker.close()
    assert sleeper.poll() is None
    assert tmp_path.is_dir()


def test_killed_janitor_is_replaced_and_told_everything(
    worker: janitor.Janitor, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with worker.guard_path(first), worker.guard_group(sleeper.pid):
        old = worker.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_until("the janitor dies", lambda: not is_alive(old))
        with worker.guard_path(second):
            assert worker.pid != old
            worker.close()
    assert sleeper.wait(10) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_forked_child_does_not_keep_it(worker: janitor.Janitor, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with worker.guard_path(folder):
        child = os.fork()
        if child == 0:
            time.sleep(1000)
            os._exit(0)
        try:
            worker.close()
            assert not folder.exists()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.parametrize("pgid", [0, 1, -5, os.getpgrp()])
def test_groups_that_are_not_a_childs_are_refused(worker: janitor.Janitor, pgid: int) -> None:
    with pytest.raises(ValueError, match="process group"), worker.guard_group(pgid):
        pass


@pytest.mark.parametrize("path", ["/", "relative", "/a/../b", "/line\nbreak", "/" + "x" * 5000])
def test_paths_that_are_no_safe_folder_are_refused(worker: janitor.Janitor, path: str) -> None:
    with pytest.raises(ValueError, match=r"not a folder|longer"), worker.guard_path(Path(path)):
        pass


def test_number_given_to_somebody_else_is_not_killed(sleeper: subprocess.Popen[bytes]) -> None:
    janitor.kill_group(sleeper.pid, "1")
    assert sleeper.poll() is None
    janitor.kill_group(sleeper.pid, janitor.start_time(sleeper.pid))
    assert sleeper.wait(10) == -signal.SIGKILL


def test_folders_that_are_not_writable_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    inner.chmod(0o000)
    inner.parent.chmod(0o500)
    janitor.remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    janitor.remove_tree(tmp_path / "tree")
    janitor.remove_tree(tmp_path / "link")
    janitor.remove_tree(tmp_path / "was never there")
    assert [path.name for path in tmp_path.rglob("*")] == ["outside", "file"]


def test_folder_that_is_still_being_filled_is_removed_in_the_end(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    script = 'i=0; while [ $i -lt 300 ]; do i=$((i+1)); : >"$0/$i" || exit 0; done'
    with children.child(["sh", "-c", script, str(tree)]) as filler:
        janitor.remove_tree(tree)
        filler.wait(20)
    with contextlib.suppress(FileNotFoundError):
        janitor.remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_run_kills_the_whole_group_when_its_time_is_over(tmp_path: Path) -> None:
    script = 'sleep 1000 & echo $! >"$0/pid"; wait'
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(["sh", "-c", script, str(tmp_path)], timeout_s=0.5)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_run_leaves_nothing_of_a_group_whose_leader_ended(tmp_path: Path) -> None:
    script = 'sleep 1000 >/dev/null 2>&1 & echo $! >"$0/pid"; cat; echo complaint >&2; exit 7'
    done = children.run(["sh", "-c", script, str(tmp_path)], timeout_s=20, input=b"text\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "text\n", "complaint\n")
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_grandchild_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from dma_rehearsal.host_harness.process import children\n"
        f"children.run(['sh', '-c', 'sleep 1000 & echo $! >{tmp_path}/pid; wait'], timeout_s=99)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=SOURCE)
    pid = tmp_path / "pid"
    try:
        wait_until("the grandchild starts", lambda: pid.exists() and pid.read_text() != "")
    finally:
        parent.kill()
        parent.wait()
    wait_until("the grandchild ends", lambda: not is_alive(int(pid.read_text())))
