# SPDX-License-Identifier: Apache-2.0
"""Runs save their guests in the cache, and start from there: at no run's cost, however it ends."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.processes import wait_until
from tests.runs import LIMIT_S, Run, call, run
from tests.unit.host_harness.wrapped import namespaces
from tests.vm.harness import Harness

SELECTED = ("-q", "-k", "test_in and 4096")
STATES = (build_cache.BOOTED, build_cache.COLLECTED)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache of this test's own, as far as saved states go: the rest is that of all tests.

    The states go at the end, as pytest would keep hundreds of megabytes for each test.
    """
    folder = tmp_path / "cache"
    folder.mkdir()
    for kind in build_cache.NEEDED:
        (folder / kind.name).symlink_to(build_cache.cache_root() / kind.name)
    yield folder
    for kind in STATES:
        shutil.rmtree(folder / kind.name, ignore_errors=True)


def found(cache: Path) -> list[str]:
    """Return the names of the kinds that have a state; nothing else may be there."""
    names = []
    for kind in STATES:
        for path in (cache / kind.name).glob("*"):
            assert not path.name.startswith(".staging")
            names += [kind.name] if path.is_dir() else []
    return names


def start_of(done: Run) -> str:
    assert done.status == 0, done.output
    return str(done.attestations["start"])


@pytest.mark.full
@pytest.mark.parametrize("kind", STATES, ids=str)
def test_run_that_is_killed_while_it_saves_leaves_nothing(
    harness: Callable[..., Harness], cache: Path, kind: build_cache.Kind
) -> None:
    killed = harness(*SELECTED, DMA_REHEARSAL_CACHE=str(cache))
    deadline = time.monotonic() + LIMIT_S
    while not list((cache / kind.name).glob(".staging-*/ram")):
        assert time.monotonic() < deadline
        assert killed.process.poll() is None, killed.output.read_text()
        time.sleep(0.002)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait(30)
    killed.check_nothing_is_left()
    # The janitor removes files when it has ended the processes.
    wait_until("the staging folder goes", lambda: not list((cache / kind.name).glob(".staging-*")))
    assert kind.name not in found(cache)


@pytest.mark.full
def test_two_runs_at_once_save_one_state(tmp_path: Path, cache: Path) -> None:
    folders = [tmp_path / name for name in ("1", "2")]
    for folder in folders:
        folder.mkdir()
    both = [Harness(folder, *SELECTED, DMA_REHEARSAL_CACHE=str(cache)) for folder in folders]
    try:
        assert [each.process.wait(LIMIT_S) for each in both] == [0, 0]
    finally:
        for each in both:
            each.process.kill()
            each.process.wait()
    assert found(cache).count(build_cache.BOOTED.name) == 1
    assert (
        start_of(run(tmp_path / "runs", *SELECTED, DMA_REHEARSAL_CACHE=str(cache))) == "collected"
    )


@pytest.mark.full
def test_cache_that_cannot_be_written_is_used_and_left_alone(tmp_path: Path, cache: Path) -> None:
    """A mount that is read-only stops root, too."""
    mount = 'mount --bind "$DMA_REHEARSAL_CACHE" "$DMA_REHEARSAL_CACHE" && '
    mount += 'mount -o remount,bind,ro "$DMA_REHEARSAL_CACHE" && exec "$@"'
    own_mounts = namespaces("--mount", "--propagation", "private")
    settings = {"DMA_REHEARSAL_CACHE": str(cache)}

    def run_read_only(runs: Path) -> Run:
        command = [sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--runs", str(runs)]
        wrapped = [*own_mounts, "sh", "-c", mount, "sh", *command, *SELECTED]
        done = call(wrapped, SOURCE, **settings)
        return Run(done.returncode, done.stdout, done.stderr, runs / "latest")

    assert start_of(run_read_only(tmp_path / "1")) == "cold"
    assert found(cache) == []
    assert start_of(run(tmp_path / "2", *SELECTED, **settings)) == "cold"
    assert found(cache) == [kind.name for kind in STATES]
    assert start_of(run_read_only(tmp_path / "3")) == "collected"


@pytest.mark.full
def test_damaged_state_is_thrown_away_and_the_run_boots(tmp_path: Path, cache: Path) -> None:
    settings = {"DMA_REHEARSAL_CACHE": str(cache)}
    assert start_of(run(tmp_path / "1", *SELECTED, **settings)) == "cold"
    (ram,) = (cache / build_cache.COLLECTED.name).glob("*/ram")
    data = bytearray(ram.read_bytes())
    data[len(data) // 2] ^= 1
    ram.write_bytes(data)
    done = run(tmp_path / "2", *SELECTED, **settings)
    assert start_of(done) == "cold"
    assert "ram: its contents changed" in done.attestations["start_reason"]
    assert found(cache) == [build_cache.BOOTED.name]
