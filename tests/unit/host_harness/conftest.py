# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the environment's tests: a cache of their own, and machines that lack things."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import janitor
from tests.unit.host_harness.wrapped import NOBODY, OrdinaryUser, run_within


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for this test alone."""
    monkeypatch.setenv("DMA_REHEARSAL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    build_cache.release()


def _namespaces(*kinds: str) -> list[str]:
    """Return the unshare command for namespaces, by root's right or a user namespace."""
    wrapper = ["unshare", *kinds]
    if os.geteuid() != 0:
        wrapper += ["--map-root-user"]
    done = run_within(wrapper, ["true"])
    if done.returncode != 0:
        pytest.skip(
            f"needs namespaces ({' '.join(kinds)}): {done.stderr.strip()}; run as root, or where "
            "user namespaces are allowed (sysctl user.max_user_namespaces)"
        )
    return wrapper


@pytest.fixture
def no_network() -> list[str]:
    """A command's start that runs it where there is no network at all."""
    return _namespaces("--net")


@pytest.fixture
def own_mounts() -> list[str]:
    """A command's start that runs it where it may mount, for itself alone."""
    return _namespaces("--mount", "--propagation", "private")


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[OrdinaryUser]:
    """The user who runs the tests, or the user nobody for root."""
    if os.geteuid() != 0:
        yield OrdinaryUser([], tmp_path, sys.executable)
        return
    # Root's rights last until the first exec, which is that of env.
    wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]
    pythons = (sys.executable, "/usr/bin/python3")
    script = "import dma_rehearsal.host_harness.environment.guest_image"
    usable = [each for each in pythons if run_within(wrapper, [each, "-c", script]).returncode == 0]
    if not usable:
        pytest.skip(
            f"an ordinary user cannot run {' or '.join(pythons)} in {SOURCE}: put the checkout "
            "and Python where all may read"
        )
    folder = Path(tempfile.mkdtemp(prefix="dma-rehearsal-test-"))  # tmp_path is root's alone
    os.chown(folder, NOBODY, NOBODY)
    try:
        yield OrdinaryUser(wrapper, folder, usable[0])
    finally:
        janitor.remove_tree(folder)
