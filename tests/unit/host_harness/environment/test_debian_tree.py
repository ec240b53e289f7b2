# SPDX-License-Identifier: Apache-2.0
"""Programs out of an unpacked tree of packages, whose links are those of another root."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import debian, guest_bytecode
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with libc6's loader, which its package links by an absolute path."""
    root = tmp_path / "root"
    (root / "lib/x86_64-linux-gnu").mkdir(parents=True)
    (root / "lib64").mkdir()
    (root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").write_text("the tree's own")
    (root / debian.LOADER).symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    return root


def test_the_trees_loader_runs_its_programs_and_not_the_hosts(tree: Path) -> None:
    loader = debian.loader_command(tree, "bin/true")[0]
    assert loader == str(tree / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    assert Path(loader).read_text() == "the tree's own"


def test_the_loader_of_a_tree_without_merged_folders(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (tmp_path / "usr/lib64").mkdir()
    loader = tmp_path / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.touch()
    (tmp_path / "usr" / debian.LOADER).symlink_to(f"../lib/x86_64-linux-gnu/{loader.name}")
    assert debian.loader_command(tmp_path, "usr/bin/x")[0] == str(loader)


@pytest.mark.parametrize(
    ("link", "text", "found"),
    [
        ("a", "b", "b"),
        ("deep/a", "b", "deep/b"),
        ("deep/a", "../b", "b"),
        ("deep/a", "../../../../b", "b"),  # above the root is the root
        ("a", "/deep/b", "deep/b"),
        ("a", "/", "."),
    ],
)
def test_links_are_followed_below_the_tree(
    tmp_path: Path, link: str, text: str, found: str
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / link).symlink_to(text)
    assert debian.within(tmp_path, link) == tmp_path / found


def test_a_linked_folder_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    assert debian.within(tmp_path, "lib/x") == tmp_path / "usr/lib/x"
    assert debian.within(tmp_path, "/lib/../x") == tmp_path / "usr/x"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/a")
    with pytest.raises(OSError, match=r"symbolic links") as caught:
        debian.within(tmp_path, "a")
    assert caught.value.errno == errno.ELOOP


def test_a_python_that_does_not_run_is_an_environment_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.py").write_text("pass\n")
    broken = ["sh", "-c", "echo stack smashing detected >&2; exit 134"]
    monkeypatch.setattr(debian, "loader_command", lambda _tree, _name: broken)
    with pytest.raises(
        EnvironmentFailure, match=r"status 134\); it said:\nstack smashing"
    ) as caught:
        guest_bytecode.compile_folder(tmp_path, tmp_path, "/opt")
    assert "make clean-cache" in caught.value.hint


def test_a_file_that_does_not_compile_stays_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("pass\n")
    (tmp_path / "bad.py").write_text("def\n")
    monkeypatch.setattr(debian, "loader_command", lambda _tree, _name: [sys.executable])
    (tmp_path / "usr").symlink_to(sys.base_prefix)  # what PYTHONHOME names
    guest_bytecode.compile_folder(tmp_path, tmp_path, "/opt")
    assert [each.name.partition(".")[0] for each in tmp_path.glob("__pycache__/*.pyc")] == ["good"]
