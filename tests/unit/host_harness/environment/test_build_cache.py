# SPDX-License-Identifier: Apache-2.0
"""The environment's cache: built once, never half, checked at each use, never taken from a user."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cache_cleaning,
    disk_space,
    file_locks,
    manifest,
)
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from tests.unit.host_harness.wrapped import OrdinaryUser, run_within

KIND = build_cache.Kind("driver", needed=1000, hashed=True, keep=2)
BIG = build_cache.Kind("tree", needed=1000, hashed=False, keep=2)

pytestmark = pytest.mark.usefixtures("cache_root")


def build(staging: Path) -> dict[str, Any]:
    (staging / "inner").mkdir()
    (staging / "inner" / "file").write_text("content")
    (staging / "link").symlink_to("inner/file")
    return {"versions": {"a": "1"}}


def never(_staging: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def test_second_time_comes_from_the_cache() -> None:
    first = build_cache.entry(KIND, {"a": 1}, build)
    assert build_cache.entry(KIND, {"a": 1}, never) == first
    assert manifest.read(first)["versions"] == {"a": "1"}
    assert build_cache.recorded(KIND, {"a": 1}) == manifest.read(first)
    assert build_cache.recorded(KIND, {"a": 2}) is None


def test_changed_input_is_another_entry() -> None:
    assert build_cache.entry(KIND, {"a": 1}, build) != build_cache.entry(KIND, {"a": 2}, build)


def test_failed_build_leaves_nothing(cache_root: Path) -> None:
    def fail(staging: Path) -> dict[str, Any]:
        (staging / "half").write_text("")
        raise EnvironmentFailure("no network")

    with pytest.raises(EnvironmentFailure, match="no network"):
        build_cache.entry(KIND, {}, fail)
    assert [path.name for path in (cache_root / "driver").iterdir()] == [".lock"]
    build_cache.entry(KIND, {}, build)


def _replace_link(entry: Path) -> None:
    (entry / "link").unlink()
    (entry / "link").symlink_to("/")


def _replace_by_file(entry: Path) -> None:
    (entry / "link").unlink()
    shutil.copy(entry / "inner/file", entry / "link")


_NOT_SEALED = "manifest.json: changed since it was sealed"

# Each break of an entry, and what the one line says of it.
_BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda e: (e / "inner/file").unlink(), "inner/file: No such file"),
    "truncated": (lambda e: os.truncate(e / "inner/file", 3), "3 bytes where 7 were"),
    "changed": (lambda e: (e / "inner/file").write_text("CONTENT"), "its contents changed"),
    "other link": (_replace_link, "link: not the same link"),
    "file for a link": (_replace_by_file, "link: not the same link"),
    "no manifest": (lambda e: (e / "manifest.json").unlink(), "no manifest.json"),
    "half manifest": (lambda e: os.truncate(e / "manifest.json", 40), _NOT_SEALED),
    "empty manifest": (lambda e: os.truncate(e / "manifest.json", 0), _NOT_SEALED),
    "binary manifest": (lambda e: (e / "manifest.json").write_bytes(b"\xff\xfe\0"), _NOT_SEALED),
    "other manifest": (lambda e: (e / "manifest.json").write_text("{}"), _NOT_SEALED),
    "no seal": (lambda e: (e / "seal").unlink(), "manifest.json: No such file"),
    "binary seal": (lambda e: (e / "seal").write_bytes(b"\xff\xfe\0"), _NOT_SEALED),
}


@pytest.mark.parametrize("name", _BREAKS)
def test_broken_entry_is_told_in_one_line_and_built_again(name: str) -> None:
    harm, said = _BREAKS[name]
    entry = build_cache.entry(KIND, {}, build)
    harm(entry)
    notes: list[str] = []
    assert build_cache.entry(KIND, {}, build, notes.append) == entry
    assert manifest.fault_of(entry) is None
    assert len(notes) == 1
    assert notes[0].startswith("the cached driver is broken (")
    assert said in notes[0]
    assert "\n" not in notes[0]
    build_cache.entry(KIND, {}, never, notes.append)


def test_entry_under_the_name_of_another_is_built_again() -> None:
    build_cache.entry(KIND, {"a": 1}, build).rename(build_cache.folder_of(KIND, {"a": 2}))
    notes: list[str] = []
    build_cache.entry(KIND, {"a": 2}, build, notes.append)
    assert "manifest.json: made from other inputs" in notes[0]
    build_cache.entry(KIND, {"a": 2}, never)


def test_big_entry_is_checked_by_size_alone() -> None:
    entry = build_cache.entry(BIG, {}, build)
    (entry / "inner/file").write_text("CONTENT")
    assert manifest.fault_of(entry) is None
    (entry / "inner/file").write_text("longer than it was")
    assert manifest.fault_of(entry) == "inner/file: 18 bytes where 7 were"


def test_broken_entry_that_cannot_be_built_again_is_status_3() -> None:
    entry = build_cache.entry(KIND, {}, build)
    (entry / "inner/file").unlink()

    def fail(_staging: Path) -> dict[str, Any]:
        raise EnvironmentFailure("no network", "connect this machine")

    with pytest.raises(EnvironmentFailure, match="connect this machine"):
        build_cache.entry(KIND, {}, fail)


def test_folder_without_a_manifest_is_built_again(cache_root: Path) -> None:
    half = cache_root / "driver" / build_cache.digest_of({})
    half.mkdir(parents=True)
    (half / "stale").write_text("")
    assert build_cache.entry(KIND, {}, build) == half
    assert not (half / "stale").exists()


# --- the space, and caches that cannot be written


def test_too_little_space_is_told_before_the_build(cache_root: Path) -> None:
    kind = build_cache.Kind("tree", needed=1 << 60, hashed=False, keep=1)
    with pytest.raises(EnvironmentFailure) as failure:
        build_cache.entry(kind, {}, never)
    said = str(failure.value)
    assert said.startswith("no space: making the tree needs 1152921504.6 GB in ")
    assert str(cache_root) in said
    assert "DMA_REHEARSAL_CACHE" in failure.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_space_that_ends_within_the_build(cache_root: Path, number: int) -> None:
    def fail(staging: Path) -> dict[str, Any]:
        (staging / "half").write_text("")
        raise OSError(number, os.strerror(number))

    with pytest.raises(EnvironmentFailure, match=r"no space: making the driver needs 1 KB in "):
        build_cache.entry(KIND, {}, fail)
    assert [path.name for path in (cache_root / "driver").iterdir()] == [".lock"]


_ENTRY_SCRIPT = """
import sys
from pathlib import Path
from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
def build(staging):
    (staging / "file").write_bytes(bytes({size}))
    return {{}}
try:
    print(build_cache.entry(build_cache.Kind("driver", {needed}, True, 2), {{}}, build))
except EnvironmentFailure as error:
    print(error)
    sys.exit(error.status)
"""


@pytest.mark.parametrize("needed", [1000, 4_000_000])
def test_full_file_system(cache_root: Path, own_mounts: list[str], needed: int) -> None:
    """A real one of 1 MiB: too small when the build begins, or found so in its midst."""
    cache_root.mkdir()
    script = _ENTRY_SCRIPT.format(size=2 << 20, needed=needed)
    mount = 'mount -t tmpfs -o size=1m none "$DMA_REHEARSAL_CACHE" && "$@" && exit 9; rc=$?; '
    mount += 'ls -A "$DMA_REHEARSAL_CACHE/driver"; exit $rc'
    done = run_within(own_mounts, ["sh", "-c", mount, "sh", sys.executable, "-c", script])
    assert done.returncode == 3, done.stderr
    assert "no space: making the driver needs" in done.stdout
    assert "next: free some" in done.stdout
    assert done.stdout.splitlines()[-1] == ".lock", "the staging folder went"


def test_read_only_cache_is_used_and_not_made(cache_root: Path, own_mounts: list[str]) -> None:
    script = _ENTRY_SCRIPT.format(size=10, needed=10)
    mount = 'mount --bind "$DMA_REHEARSAL_CACHE" "$DMA_REHEARSAL_CACHE" && '
    mount += 'mount -o remount,bind,ro "$DMA_REHEARSAL_CACHE" && exec "$@"'
    wrapped = ["sh", "-c", mount, "sh", sys.executable, "-c", script]
    cache_root.mkdir()
    done = run_within(own_mounts, wrapped)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stdout
    assert "next: DMA_REHEARSAL_CACHE=" in done.stdout
    assert run_within([], [sys.executable, "-c", script]).returncode == 0
    done = run_within(own_mounts, wrapped)
    assert (done.returncode, done.stderr) == (0, "")


def test_cache_of_another_user(ordinary_user: OrdinaryUser) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users: run as root")
    root = ordinary_user.folder / "cache"
    root.mkdir(mode=0o755)
    command = [ordinary_user.python, "-c", _ENTRY_SCRIPT.format(size=10, needed=10)]
    done = run_within(ordinary_user.wrapper, command, DMA_REHEARSAL_CACHE=str(root))
    assert done.returncode == 3, done.stderr
    assert "(of root) cannot be written" in done.stdout
    made = run_within([], command, DMA_REHEARSAL_CACHE=str(root))
    done = run_within(ordinary_user.wrapper, command, DMA_REHEARSAL_CACHE=str(root))
    assert (done.returncode, done.stdout) == (0, made.stdout), "what root made is of use to all"


def test_unwritable_cache_says_what_to_do(cache_root: Path) -> None:
    cache_root.parent.mkdir(exist_ok=True)
    cache_root.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFailure, match="DMA_REHEARSAL_CACHE"):
        build_cache.entry(KIND, {}, build)


def test_file_system_without_locks(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    notes: list[str] = []
    (cache_root / "driver" / ".staging-of-another").mkdir(parents=True)
    entry = build_cache.entry(KIND, {}, build, notes.append)
    assert ["without locks" in note for note in notes] == [True]
    assert (cache_root / "driver" / ".staging-of-another").is_dir(), "it may be alive"
    assert build_cache.entry(KIND, {}, never) == entry
    notes.clear()
    assert cache_cleaning.clean(notes.append) == 0
    assert entry.is_dir()
    assert "remove it by hand" in notes[0]


def test_without_locks_the_faster_of_two_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)

    def overtaken(staging: Path) -> dict[str, Any]:
        build_cache.entry(KIND, {}, build)
        return build(staging)

    entry = build_cache.entry(KIND, {}, overtaken)
    assert manifest.fault_of(entry) is None
    assert sorted(path.name for path in entry.parent.iterdir()) == sorted([".lock", entry.name])


# --- two at once


def _slow_build(staging: Path) -> dict[str, Any]:
    with (staging.parent / "built").open("a") as log:
        log.write("x")
    time.sleep(0.2)
    return build(staging)


def _worker() -> None:
    build_cache.entry(KIND, {}, _slow_build)


def test_two_at_once_build_once(cache_root: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_worker) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert (cache_root / "driver" / "built").read_text() == "x"
    for worker in workers:
        worker.close()


_BUILDER = """
import sys, time
from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.process import children
def build(staging):
    (staging / "half").write_text("x")
    print("building", flush=True)
    children.run(["sh", "-c", f"sleep 1000 # {staging}"], timeout_s=1000)
build_cache.entry(build_cache.Kind("driver", 1000, True, 2), {}, build)
"""


def _start_builder() -> subprocess.Popen[str]:
    builder = subprocess.Popen(
        [sys.executable, "-c", _BUILDER], cwd=SOURCE, stdout=subprocess.PIPE, text=True
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "building\n"
    return builder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_builder_is_no_harm_to_one_that_waits(
    cache_root: Path, number: signal.Signals
) -> None:
    builder = _start_builder()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        builder.send_signal(number)

    entry = build_cache.entry(KIND, {}, build, note)
    builder.communicate()
    assert notes == [
        f"another run (process {builder.pid}) is working there: waiting before making the driver"
    ]
    assert manifest.fault_of(entry) is None
    names = sorted(path.name for path in (cache_root / "driver").iterdir())
    assert names == sorted([".lock", entry.name])


def test_killed_builder_leaves_no_staging_folder(cache_root: Path) -> None:
    builder = _start_builder()
    assert len(list((cache_root / "driver").glob(".staging-*"))) == 1
    builder.kill()
    builder.communicate()
    deadline = time.monotonic() + 20
    while list((cache_root / "driver").glob(".staging-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_staging_folder_whose_janitor_died_too_goes_with_the_next_build(cache_root: Path) -> None:
    left = cache_root / "driver" / ".staging-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    build_cache.entry(KIND, {}, build)
    assert not left.exists()


def test_lock_that_is_held_too_long_is_status_3(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_locks, "_LOCK_WAIT_S", 0.2)
    builder = _start_builder()
    try:
        with pytest.raises(EnvironmentFailure, match=rf"process {builder.pid}\) has held"):
            build_cache.entry(KIND, {}, build)
    finally:
        builder.kill()
        builder.communicate()
    assert cache_root.is_dir()


# --- what goes, and what stays

_USER = """
import sys
from dma_rehearsal.host_harness.environment import build_cache
kind = build_cache.Kind("driver", 1000, True, 2)
print(build_cache.recorded(kind, {"user": 1}) is not None, flush=True)
sys.stdin.read()
"""


def _start_user() -> subprocess.Popen[str]:
    """Start a process that uses the entry of inputs ``{"user": 1}``, as a running VM does."""
    user = subprocess.Popen(
        [sys.executable, "-c", _USER],
        cwd=SOURCE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "True\n"
    return user


def test_old_entries_go_but_the_newest_few_young_and_used_ones_stay() -> None:
    made = {name: build_cache.entry(KIND, {name: 1}, build) for name in ("user", "a", "b", "young")}
    build_cache.release()
    for age, name in enumerate(("b", "a", "user"), start=1):
        then = time.time() - 7200 * age
        os.utime(made[name] / "manifest.json", (then, then))
    user = _start_user()
    os.utime(made["user"] / "manifest.json", (then, then))
    try:
        newest = build_cache.entry(KIND, {"newest": 1}, build)
        left = {path.name for path in build_cache.entries(KIND)}
        assert left == {made["user"].name, made["young"].name, newest.name}
    finally:
        user.communicate("")


def test_clean_removes_all_but_what_is_used(cache_root: Path) -> None:
    used, idle = (
        build_cache.entry(KIND, {"user": 1}, build),
        build_cache.entry(KIND, {"a": 1}, build),
    )
    broken = build_cache.entry(BIG, {}, build)
    build_cache.release()
    (broken / "manifest.json").unlink()
    (cache_root / "driver" / ".staging-old").mkdir()
    (cache_root / "somebody's").write_text("letter")
    user = _start_user()
    notes: list[str] = []
    try:
        freed = cache_cleaning.clean(notes.append)
    finally:
        user.communicate("")
    assert freed > 4096
    assert used.is_dir()
    assert not idle.exists()
    assert not broken.parent.exists()
    assert not (cache_root / "driver" / ".staging-old").exists()
    assert (cache_root / "somebody's").read_text() == "letter"
    assert any("a run uses it" in note for note in notes)
    assert any("does not belong to the cache; left alone" in note for note in notes)
    assert cache_cleaning.clean(notes.append) > 0
    assert [path.name for path in cache_root.iterdir()] == ["somebody's"]


def test_clean_keeps_what_a_build_is_making(cache_root: Path) -> None:
    builder = _start_builder()
    notes: list[str] = []
    try:
        assert cache_cleaning.clean(notes.append) == 0
        assert list((cache_root / "driver").glob(".staging-*"))
        assert "a build is running there" in notes[0]
    finally:
        builder.kill()
        builder.communicate()


def test_clean_of_nothing(cache_root: Path) -> None:
    assert cache_cleaning.clean() == 0
    assert not cache_root.exists()


def test_entry_removed_while_it_was_about_to_be_used_is_built_again() -> None:
    entry = build_cache.entry(KIND, {}, build)
    assert not build_cache.remove_unused(entry), "it is in use"
    assert build_cache.discard(entry)
    assert build_cache.entry(KIND, {}, build) == entry


def test_amounts_in_words() -> None:
    assert [disk_space.amount(n) for n in (1, 2_400_000, 1_250_000_000)] == [
        "1 KB",
        "2 MB",
        "1.2 GB",
    ]
