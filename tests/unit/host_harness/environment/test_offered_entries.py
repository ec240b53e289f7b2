# SPDX-License-Identifier: Apache-2.0
"""Entries of the cache that only save time: never waited for, and never at a run's cost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import build_cache, cache_cleaning, disk_space, manifest
from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.processes import wait_until
from tests.unit.host_harness.wrapped import OrdinaryUser, run_within

KIND = build_cache.Kind("booted", needed=1000, hashed=False, keep=2, young_s=0)

pytestmark = pytest.mark.usefixtures("cache_root")


def build(staging: Path) -> dict[str, Any]:
    (staging / "ram").write_bytes(bytes(1000))
    return {"made by": "a test"}


def never(_staging: Path) -> dict[str, Any]:
    raise AssertionError("built")


def left(cache_root: Path) -> list[str]:
    """Return the names of what the kind's folder has, besides its lock."""
    folder = cache_root / "booted"
    return [path.name for path in folder.iterdir() if path.name != ".lock"]


def test_offered_entry_is_used() -> None:
    assert build_cache.use(KIND, {"a": 1}) is None
    made = build_cache.offer(KIND, {"a": 1}, build)
    assert made is not None
    assert manifest.read(made)["made by"] == "a test"
    assert build_cache.use(KIND, {"a": 1}) == made
    assert build_cache.offer(KIND, {"a": 1}, never) == made
    assert build_cache.use(KIND, {"a": 2}) is None


def test_broken_entry_is_not_used_and_is_made_again() -> None:
    made = build_cache.offer(KIND, {}, build)
    assert made is not None
    build_cache.release()
    os.truncate(made / "ram", 999)
    assert build_cache.use(KIND, {}) is None
    assert build_cache.offer(KIND, {}, build) == made
    assert build_cache.use(KIND, {}) == made


def test_broken_entry_that_another_run_uses_stays() -> None:
    made = build_cache.offer(KIND, {}, build)
    assert made is not None
    os.truncate(made / "ram", 999)  # this process still holds it
    assert build_cache.offer(KIND, {}, never) is None
    assert made.is_dir()


def test_old_entries_go_by_number_whatever_their_age() -> None:
    made = [build_cache.offer(KIND, {"a": number}, build) for number in range(2)]
    build_cache.release()
    for age, path in enumerate(made):
        assert path is not None
        os.utime(path / "manifest.json", (time.time() - age, time.time() - age))
    newest = build_cache.offer(KIND, {"newest": 1}, build)
    assert {*build_cache.entries(KIND)} == {made[0], newest}
    # A kind that does not say so keeps its young ones.
    patient = build_cache.Kind("driver", needed=1000, hashed=False, keep=1)
    young = [build_cache.offer(patient, {"a": number}, build) for number in range(3)]
    build_cache.release()
    assert {*build_cache.entries(patient)} == {*young}


def test_entry_in_use_stays_however_many_are_newer() -> None:
    made = [build_cache.offer(KIND, {"a": number}, build) for number in range(4)]
    assert {*build_cache.entries(KIND)} == {*made}


def fail_with(number: int) -> build_cache.Build:
    def fail(staging: Path) -> dict[str, Any]:
        build(staging)
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_that_fails_in_the_midst_leaves_nothing(cache_root: Path, number: int) -> None:
    assert build_cache.offer(KIND, {}, fail_with(number)) is None
    assert left(cache_root) == []


def test_other_errors_of_a_build_are_passed_on_and_leave_nothing(cache_root: Path) -> None:
    def fail(staging: Path) -> dict[str, Any]:
        build(staging)
        raise RuntimeError("the VM is lost")

    with pytest.raises(RuntimeError, match="the VM is lost"):
        build_cache.offer(KIND, {}, fail)
    assert left(cache_root) == []


def test_nothing_is_made_where_too_little_would_stay_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, made in ((1_000_000_999, False), (1_000_001_000, True)):
        monkeypatch.setattr(disk_space, "free", lambda _folder, free=free: free)
        assert (build_cache.offer(KIND, {}, build) is not None) is made


_OFFER_SCRIPT = """
import sys
from collections.abc import Iterator
from pathlib import Path
from dma_rehearsal.host_harness.environment import build_cache
build_cache._OFFER_SPARE = 0
def build(staging):
    (staging / "ram").write_bytes(bytes({size}))
    return {{}}
kind = build_cache.Kind("booted", 1000, False, 2, young_s=0)
print(build_cache.use(kind, {{}}) is not None, build_cache.offer(kind, {{}}, build) is not None)
"""


def test_full_file_system_is_no_error(cache_root: Path, own_mounts: list[str]) -> None:
    """A real one of 1 MiB, which becomes full within the build."""
    cache_root.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$DMA_REHEARSAL_CACHE" && "$@"; rc=$?; '
    mount += 'ls -A "$DMA_REHEARSAL_CACHE/booted"; exit $rc'
    script = _OFFER_SCRIPT.format(size=2 << 20)
    done = run_within(own_mounts, ["sh", "-c", mount, "sh", sys.executable, "-c", script])
    assert (done.returncode, done.stdout.split()) == (0, ["False", "False", ".lock"]), done.stderr


def test_read_only_cache_is_used_and_not_written(cache_root: Path, own_mounts: list[str]) -> None:
    script = _OFFER_SCRIPT.format(size=10)
    mount = 'mount --bind "$DMA_REHEARSAL_CACHE" "$DMA_REHEARSAL_CACHE" && '
    mount += 'mount -o remount,bind,ro "$DMA_REHEARSAL_CACHE" && exec "$@"'
    wrapped = ["sh", "-c", mount, "sh", sys.executable, "-c", script]
    cache_root.mkdir()
    done = run_within(own_mounts, wrapped)
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr
    assert run_within([], [sys.executable, "-c", script]).stdout == "False True\n"
    done = run_within(own_mounts, wrapped)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_cache_of_another_user_is_used_and_not_written(ordinary_user: OrdinaryUser) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users: run as root")
    root = ordinary_user.folder / "cache"
    root.mkdir(mode=0o755)
    command = [ordinary_user.python, "-c", _OFFER_SCRIPT.format(size=10)]
    done = run_within(ordinary_user.wrapper, command, DMA_REHEARSAL_CACHE=str(root))
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr
    assert not list(root.iterdir())
    run_within([], command, DMA_REHEARSAL_CACHE=str(root))
    done = run_within(ordinary_user.wrapper, command, DMA_REHEARSAL_CACHE=str(root))
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_cache_that_is_a_file_is_no_error(cache_root: Path) -> None:
    cache_root.write_text("a file where the folder should be")
    assert build_cache.use(KIND, {}) is None
    assert build_cache.offer(KIND, {}, never) is None


def test_nothing_is_made_where_locks_do_not_say_what_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = build_cache.offer(KIND, {"a": 1}, build)

    def refuse(_descriptor: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert build_cache.offer(KIND, {}, never) is None
    assert build_cache.use(KIND, {"a": 1}) == made


_BUILDER = """
import sys
from dma_rehearsal.host_harness.environment import build_cache
def build(staging):
    (staging / "half").write_text("x")
    print("building", flush=True)
    sys.stdin.read()
    return {}
build_cache.offer(build_cache.Kind("booted", 1000, False, 2), {}, build)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def builder() -> Iterator[subprocess.Popen[str]]:
    """A process that is in the midst of a build."""
    with subprocess.Popen(
        [sys.executable, "-c", _BUILDER],
        cwd=SOURCE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        yield process
        process.kill()


def test_build_of_another_run_is_not_waited_for(builder: subprocess.Popen[str]) -> None:
    assert build_cache.offer(KIND, {"another": 1}, never) is None
    assert build_cache.use(KIND, {}) is None
    builder.kill()
    builder.wait()
    assert build_cache.offer(KIND, {"another": 1}, build) is not None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_builder_leaves_nothing(
    cache_root: Path, builder: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert len(left(cache_root)) == 1
    builder.send_signal(number)
    wait_until("the staging folder goes", lambda: not left(cache_root))


def test_staging_folder_whose_janitor_died_too_goes_with_the_next_offer(cache_root: Path) -> None:
    dead = cache_root / "booted" / ".staging-0123456789abcdef"
    dead.mkdir(parents=True)
    made = build_cache.offer(KIND, {}, build)
    assert made is not None
    assert left(cache_root) == [made.name]


def test_lock_that_was_removed_meanwhile_is_none(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """clean-cache removes lock files, and another run may hold the new one."""
    flock = fcntl.flock

    def lock(descriptor: Any, operation: int) -> None:
        flock(descriptor, operation)
        (cache_root / "booted" / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", lock)
    assert build_cache.offer(KIND, {}, never) is None


def test_entry_that_is_being_removed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = build_cache.offer(KIND, {}, build)
    assert made is not None
    build_cache.release()
    with (made / "manifest.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        assert build_cache.use(KIND, {}) is None
        assert build_cache.offer(KIND, {}, never) is None
    assert build_cache.use(KIND, {}) == made


def test_clean_removes_saved_states_too(cache_root: Path) -> None:
    for kind in (build_cache.BOOTED, build_cache.COLLECTED):
        folder = cache_root / kind.name / "0123456789abcdef"
        folder.mkdir(parents=True)
        (folder / "ram").write_bytes(bytes(10_000))
    assert build_cache.usage(cache_root) > 20_000
    assert cache_cleaning.clean() > 20_000
    assert not cache_root.exists()
