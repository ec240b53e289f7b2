# SPDX-License-Identifier: Apache-2.0
"""The files of another project that reach the guest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

from dma_rehearsal.host_harness.environment import debian, guest_packages, payload
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests, is_copied
from dma_rehearsal.host_harness.process.errors import UsageError

FILES = (
    *("test_top.py", "plain/test_a.py", "plain/helper.py", "deep/conftest.py"),
    *("deep/inner/test_b.py", "deep/inner/bare/test_c.py"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("selected", "copied"),
    [
        ("plain", "plain"),
        ("plain/test_a.py", "plain"),
        ("plain/test_a.py::test_x[1]", "plain"),
        ("deep/inner/test_b.py", "deep"),
        ("deep/inner", "deep"),
        ("deep/inner/bare/test_c.py", "deep/inner/bare"),
        ("test_top.py", "test_top.py"),
        (".", "."),
    ],
)
def test_folder_that_a_selection_needs(root: Path, selected: str, copied: str) -> None:
    assert GuestTests(root, (selected,)).files() == [Path(copied)]


def test_own_tests_are_there_anyway() -> None:
    assert GuestTests(selected=("suite/test_x.py",)).files() == []
    assert GuestTests().root_in_guest == "/opt/dma-rehearsal/dma_rehearsal/guest"


@pytest.mark.parametrize(
    ("selected", "words"),
    [("nowhere", "does not exist"), ("/etc", "not below the root of the tests")],
)
def test_what_cannot_be_copied_is_a_usage_error(root: Path, selected: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GuestTests(root, (selected,)).files()


def test_junk_and_the_drivers_source_stay_out() -> None:
    assert is_copied(Path("suite/test_x.py"))
    for name in ("driver/main.c", "suite/__pycache__/x.pyc", ".git/x", "suite/.x.swp"):
        assert not is_copied(Path(name))
    assert (SOURCE / "guest" / "driver").is_dir()


def test_rewritten_asserts_are_kept_where_pytest_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("conftest.py", "deep/test_a.py", "deep/b_test.py", "deep/helper.py", "test_bad.py")
    tests = tmp_path / "tests"
    (tests / "deep").mkdir(parents=True)
    for name in files:
        (tests / name).write_text("x = 1\nassert x == 2\n")
    (tests / "test_bad.py").write_text("def\n")
    guest_packages.copy(tmp_path / "packages")
    monkeypatch.setattr(debian, "loader_command", lambda _tree, _name: [sys.executable])
    payload.keep_rewritten_asserts(tmp_path, tmp_path / "packages", tests, "/opt/tests")
    kept = {name: _kept(tests / name) for name in files}
    assert sorted(name for name in files if kept[name].exists()) == sorted(files[:3])
    for name in files[:3]:
        code = rewrite._read_pyc(tests / name, kept[name])
        assert code is not None, f"pytest does not take {kept[name]}"
        with pytest.raises(AssertionError, match=r"assert 1 == 2"):  # plain asserts say nothing
            exec(code, {})
    assert f"/opt/tests/{files[1]}".encode() in kept[files[1]].read_bytes()
    (tests / files[1]).write_text("x = 1\nassert x == 3\n")
    assert rewrite._read_pyc(tests / files[1], kept[files[1]]) is None, "an edit is not noticed"


def _kept(source: Path) -> Path:
    return rewrite.get_cache_dir(source) / f"{source.stem}{rewrite.PYC_TAIL}"
