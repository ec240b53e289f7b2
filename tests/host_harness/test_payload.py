"""Which files of another project reach the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from host_harness.errors import UsageError
from host_harness.payload import SOURCE, GuestTests, is_copied

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
    assert GuestTests().root_in_guest == "/opt/dma-rehearsal/guest"


@pytest.mark.parametrize(
    ("selected", "words"), [("nowhere", "there is no"), ("/etc", "not below the root of the tests")]
)
def test_what_cannot_be_copied_is_a_usage_error(root: Path, selected: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GuestTests(root, (selected,)).files()


def test_junk_and_the_drivers_source_stay_out() -> None:
    assert is_copied(Path("suite/test_x.py"))
    for name in ("driver/main.c", "suite/__pycache__/x.pyc", ".git/x", "suite/.x.swp"):
        assert not is_copied(Path(name))
    assert (SOURCE / "guest" / "driver").is_dir()
