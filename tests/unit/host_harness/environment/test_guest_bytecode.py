# SPDX-License-Identifier: Apache-2.0
"""Bytecode for the guest; this Python takes the part of the guest's."""

from __future__ import annotations

import marshal
import os
import signal
import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

from dma_rehearsal.host_harness.environment import (
    compile_for_guest,
    debian,
    guest_bytecode,
    manifest,
)
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

pytestmark = pytest.mark.usefixtures("cache_root")
SOURCES = {
    "conftest.py": b"x = 1\nassert x == 2\n",
    "deep/test_a.py": b"x = 1\nassert x == 2\n",
    "deep/b_test.py": b"x = 1\nassert x == 2\n",
    "deep/helper.py": b"names = 'conftest', 'deep', 'helper', 'test_a', 'x'\n",
    "deep/test.more.py": b"",
    "test_bad.py": b"def\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(debian, "loader_command", lambda _tree, _name: [sys.executable])
    root = tmp_path / "tree" / "root"
    (root / "usr" / "lib" / "python3.11").mkdir(parents=True)
    (root / "usr" / "lib" / "python3.11" / "os.py").write_text("...")
    (root / "usr" / "share").mkdir()
    (root / "usr" / "share" / "page").write_text("...")
    manifest.write(root.parent, {}, hashed=False)
    return root


def test_bytecode_is_where_python_and_pytest_look(tree: Path, tmp_path: Path) -> None:
    made = guest_bytecode.compiled(tree, SOURCES, tmp_path / "tests", "/opt/tests")
    tag = sys.implementation.cache_tag
    assert {source: sorted(files) for source, files in made.items()} == {
        "conftest.py": [
            f"__pycache__/conftest{rewrite.PYC_TAIL}",
            f"__pycache__/conftest.{tag}.pyc",
        ],
        "deep/test_a.py": [
            f"deep/__pycache__/test_a{rewrite.PYC_TAIL}",
            f"deep/__pycache__/test_a.{tag}.pyc",
        ],
        "deep/b_test.py": [
            f"deep/__pycache__/b_test{rewrite.PYC_TAIL}",
            f"deep/__pycache__/b_test.{tag}.pyc",
        ],
        "deep/helper.py": [f"deep/__pycache__/helper.{tag}.pyc"],
        "deep/test.more.py": [f"deep/__pycache__/test.more.{tag}.pyc"],
        "test_bad.py": [],
    }
    for source in "conftest.py", "deep/test_a.py", "deep/b_test.py":
        path = tmp_path / "tests" / source
        kept = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
        code = rewrite._read_pyc(path, kept)
        assert code is not None, f"pytest does not take {kept}"
        with pytest.raises(AssertionError, match=r"assert 1 == 2"):  # plain asserts say nothing
            exec(code, {})
        assert f"/opt/tests/{source}".encode() in kept.read_bytes()
        path.write_text("x = 1\nassert x == 3\n")
        assert rewrite._read_pyc(path, kept) is None, "an edit is not noticed"


def test_plain_bytecode_is_that_of_compileall_in_a_python_of_its_own(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "x.py").write_bytes(b"def f():\n    return 1, 'f'\n")
    guest_bytecode.compile_folder(tree, tmp_path / "all", "/opt")
    (kept,) = (tmp_path / "all").glob("__pycache__/*.pyc")
    source = {"x.py": (tmp_path / "all" / "x.py").read_bytes()}
    (made,) = guest_bytecode.compiled(tree, source, tmp_path / "one", "/opt")["x.py"].values()
    assert made[:16] == kept.read_bytes()[:16]
    assert marshal.loads(made[16:]) == marshal.loads(kept.read_bytes()[16:])


def test_a_file_gives_the_same_bytes_whatever_is_beside_it(tree: Path, tmp_path: Path) -> None:
    together = guest_bytecode.compiled(tree, SOURCES, tmp_path / "together", "/opt")
    for number, source in enumerate(SOURCES):
        alone = {source: SOURCES[source]}
        made = guest_bytecode.compiled(tree, alone, tmp_path / f"{number}/helper/x", "/opt")
        assert made == {source: together[source]}


def test_bytecode_that_cannot_be_written_is_an_environment_failure(
    tree: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "__pycache__").touch()  # a file where the folder belongs
    with pytest.raises(EnvironmentFailure, match=r"(?s)status 1\); it said:.*__pycache__"):
        guest_bytecode.compiled(tree, {"x.py": b""}, scratch, "/opt")


def test_a_file_that_kills_the_compiler_has_no_bytecode(capfd: pytest.CaptureFixture[str]) -> None:
    def step(path: str) -> None:
        if path == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if path == "full":
            raise OSError("no space")

    assert compile_for_guest.each_alone(["good", "killer", "good", "good"], step)
    assert not compile_for_guest.each_alone(["full", "killer", "good", "good"], step)
    assert not compile_for_guest.each_alone(["good", "good", "good", "full"], step)
    assert "no space" in capfd.readouterr().err


def test_a_damaged_python_is_removed_to_be_unpacked_again(tree: Path, tmp_path: Path) -> None:
    (tree / "usr" / "share" / "page").unlink()  # which no compiler reads
    assert guest_bytecode.compiled(tree, {"x.py": b""}, tmp_path / "a", "/opt")["x.py"]
    (tree / "usr" / "lib" / "python3.11" / "os.py").write_text("..")
    with pytest.raises(EnvironmentFailure, match=r"damaged \(root/usr/lib/.*/os\.py: 2 bytes"):
        guest_bytecode.compiled(tree, {"x.py": b""}, tmp_path / "b", "/opt")
    assert not tree.exists()
