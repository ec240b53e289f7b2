# SPDX-License-Identifier: Apache-2.0
"""The guest's driver, built in each way. It takes minutes on a machine that has no image yet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    build_cache,
    driver_build,
    kernel_tree,
)
from dma_rehearsal.host_harness.environment.driver_build import Way
from tests.unit.host_harness import wrapped
from tests.unit.host_harness.wrapped import NOBODY, REASON_OF_WAY, OrdinaryUser, run_within

FIRST_WAY, *OTHER_WAYS = Way
_MAKE_DRIVER = """
import sys
from pathlib import Path
print_nothing = lambda text: None
from dma_rehearsal.host_harness.environment import guest_driver, kernel_tree, module_build
staging, root = Path(sys.argv[1]), Path(sys.argv[2])
release = kernel_tree.release_of(root, "bookworm")
kernel = kernel_tree.unpacked("bookworm", root, release, "")
for source in guest_driver.folders(kernel):
    built = module_build.build(kernel, source, staging, print_nothing, words="it", fix="fix it")
    assert not built.warnings, built.warnings
print(built.way)
"""


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[OrdinaryUser]:
    """The user who runs the tests, or the user nobody for root."""
    with wrapped.ordinary_user(tmp_path) as user:
        yield user


@pytest.mark.parametrize(
    ("way", "who"),
    [
        (FIRST_WAY, "root"),
        *(pytest.param(way, "root", marks=pytest.mark.full) for way in OTHER_WAYS),
        pytest.param(Way.USERNS, "an ordinary user", marks=pytest.mark.full),
        pytest.param(Way.HOST, "an ordinary user", marks=pytest.mark.full),
    ],
)
def test_driver_is_built_in_each_way(
    way: Way, who: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tree = kernel_tree.make(kernel_tree.DEFAULT, lambda _text: None).root
    build_cache.release()
    wrapper: list[str] = []
    python = sys.executable
    staging = tmp_path / "staging"
    if who == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root: run the tests as root, too")
    else:
        user: OrdinaryUser = request.getfixturevalue("ordinary_user")
        wrapper, python, staging = user.wrapper, user.python, user.folder / "staging"
        if os.geteuid() == 0:
            # A tree of their own, where they can reach it.
            subprocess.run(["cp", "-a", str(tree), str(user.folder / "tree")], check=True)
            tree = user.folder / "tree"
            subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", str(tree)], check=True)
    staging.mkdir()
    if wrapper:
        os.chown(staging, NOBODY, NOBODY)
    probe = run_within(wrapper, [python, "-c", REASON_OF_WAY.format(way=way.value)])
    if probe.stdout != "None\n":
        pytest.skip(f"{way} does not work for {who}: {probe.stdout}; {driver_build.hint(way)}")
    command = [python, "-c", _MAKE_DRIVER, str(staging), str(tree)]
    begun = time.time()
    done = run_within(wrapper, command, DMA_REHEARSAL_BUILD=way)
    assert (done.returncode, done.stdout) == (0, f"{way}\n"), done.stderr
    assert len(list(staging.iterdir())) == 2
    assert (staging / "dma_rehearsal.ko").is_file()
    touched = [path for path in tree.rglob("*") if path.lstat().st_mtime > begun]
    assert not [path for path in touched if path.is_file()], "the tree stays as it was sealed"
