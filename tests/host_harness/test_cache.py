"""The environment's cache: built once, never half, again when an input changed."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from host_harness import cache
from host_harness.errors import EnvironmentFailure


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMA_REHEARSAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(staging: Path) -> dict[str, Any]:
    (staging / "file").write_text("content")
    return {"versions": {"a": "1"}}


def never(_staging: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def test_second_time_comes_from_the_cache() -> None:
    first = cache.entry("kind", {"a": 1}, build)
    assert cache.entry("kind", {"a": 1}, never) == first
    assert cache.manifest(first) == {"inputs": {"a": 1}, "versions": {"a": "1"}}


def test_changed_input_is_another_entry() -> None:
    assert cache.entry("kind", {"a": 1}, build) != cache.entry("kind", {"a": 2}, build)


def test_failed_build_leaves_nothing(root: Path) -> None:
    def fail(staging: Path) -> dict[str, Any]:
        (staging / "half").write_text("")
        raise EnvironmentFailure("no network")

    with pytest.raises(EnvironmentFailure, match="no network"):
        cache.entry("kind", {}, fail)
    assert [path.name for path in (root / "kind").iterdir()] == [".lock"]
    cache.entry("kind", {}, build)


def test_half_written_entry_is_built_again(root: Path) -> None:
    half = root / "kind" / cache.digest_of({})
    half.mkdir(parents=True)
    (half / "stale").write_text("")
    entry = cache.entry("kind", {}, build)
    assert entry == half
    assert not (half / "stale").exists()


def test_unwritable_cache_says_what_to_do(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFailure, match="DMA_REHEARSAL_CACHE"):
        cache.entry("kind", {}, build)


def _slow_build(staging: Path) -> dict[str, Any]:
    with (staging.parent / "built").open("a") as log:
        log.write("x")
    time.sleep(0.2)
    return build(staging)


def _worker() -> None:
    cache.entry("kind", {}, _slow_build)


def test_two_at_once_build_once(root: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_worker) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert (root / "kind" / "built").read_text() == "x"


def test_folders_that_are_not_writable_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    inner.chmod(0o000)
    inner.parent.chmod(0o500)
    cache.remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
