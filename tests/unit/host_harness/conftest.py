# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the environment's tests: a cache of their own, and machines that lack things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import build_cache
from tests.unit.host_harness import wrapped
from tests.unit.host_harness.wrapped import OrdinaryUser


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for this test alone."""
    monkeypatch.setenv("DMA_REHEARSAL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    build_cache.release()


@pytest.fixture
def no_network() -> list[str]:
    """A command's start that runs it where there is no network at all."""
    return wrapped.namespaces("--net")


@pytest.fixture
def own_mounts() -> list[str]:
    """A command's start that runs it where it may mount, for itself alone."""
    return wrapped.namespaces("--mount", "--propagation", "private")


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[OrdinaryUser]:
    """The user who runs the tests, or the user nobody for root."""
    with wrapped.ordinary_user(tmp_path) as user:
        yield user
