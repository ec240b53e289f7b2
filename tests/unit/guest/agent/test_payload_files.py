# SPDX-License-Identifier: Apache-2.0
"""The message files: sources replaced in a parked guest, with the bytecode that belongs to them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from dma_rehearsal.guest.agent.payload_files import PayloadFiles


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of sources with bytecode, Python's own and pytest's."""
    root = tmp_path / "opt"
    for name in "guest/a.py", "guest/b.py", "guest/ab.py":
        (root / "guest" / "__pycache__").mkdir(parents=True, exist_ok=True)
        (root / name).write_text("OLD = 1\n")
        stem = Path(name).stem
        for tail in "cpython-311", "cpython-311-pytest-9.2.0":
            (root / "guest" / "__pycache__" / f"{stem}.{tail}.pyc").touch()
    (tmp_path / "outside.py").write_text("outside\n")
    return root


def bytecode(root: Path, name: str) -> int:
    return len(list((root / "guest" / "__pycache__").glob(f"{name}.*.pyc")))


def test_files_come_with_their_mode_time_and_folders(root: Path) -> None:
    said = PayloadFiles(root).take(
        {
            "type": "files",
            "files": [
                ["guest/a.py", 0o644, coded("NEW = 1\n")],
                ["project/new/run.sh", 0o755, coded("exit 0\n")],
                ["project/empty/", 0o700, ""],
            ],
        }
    )
    assert said == {"type": "filed"}
    assert (root / "guest/a.py").read_text() == "NEW = 1\n"
    program = (root / "project/new/run.sh").stat()
    assert (program.st_mode & 0o777, program.st_mtime) == (0o755, 0)
    assert (root / "project/empty").stat().st_mode & 0o777 == 0o700
    assert (bytecode(root, "a"), bytecode(root, "b"), bytecode(root, "ab")) == (0, 2, 2)


@pytest.mark.parametrize("bytecode_first", [True, False])
def test_new_bytecode_stays_in_whatever_order_it_comes(root: Path, bytecode_first: bool) -> None:
    files = [
        ["guest/__pycache__/a.cpython-311.pyc", 0o644, coded("new code")],
        ["guest/a.py", 0o644, coded("NEW = 1\n")],
    ]
    taken = PayloadFiles(root)
    for each in files if bytecode_first else files[::-1]:
        assert taken.take({"type": "files", "files": [each]}) == {"type": "filed"}
    (left,) = (root / "guest" / "__pycache__").glob("a.*.pyc")
    assert left.read_text() == "new code"


def test_removed_source_takes_its_bytecode(root: Path) -> None:
    removed = ["guest/a.py", "guest/was-never-there.py"]
    assert PayloadFiles(root).take({"type": "files", "remove": removed}) == {"type": "filed"}
    assert not (root / "guest/a.py").exists()
    assert (bytecode(root, "a"), bytecode(root, "ab")) == (0, 2)


def test_removed_folder_goes_with_all_in_it(root: Path) -> None:
    said = PayloadFiles(root).take({"type": "files", "remove": ["guest/", "gone/"], "files": []})
    assert said == {"type": "filed"}
    assert not (root / "guest").exists()
    assert root.exists()


def test_folder_goes_before_a_file_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "module.py").touch()
    (tmp_path / "link").symlink_to("package")
    message = {
        "type": "files",
        "remove": ["package/", "module.py", "link", "nowhere", "nowhere/"],
        "files": [["module.py/__init__.py", 0o644, ""], ["package", 0o644, coded("text")]],
    }
    for _ in "ab":  # the same again is fine
        assert PayloadFiles(tmp_path).take(message) == {"type": "filed"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        *("package", "module.py", "module.py/__init__.py"),
    }


@pytest.mark.parametrize(
    "name", ["../outside.py", "guest/../../outside.py", "/etc/passwd", "", ".", "a\0b", 7, None]
)
def test_path_that_is_not_below_the_root_changes_nothing(root: Path, name: object) -> None:
    new = ["guest/a.py", 0o644, coded("NEW = 1\n")]
    for message in (
        {"remove": ["guest/b.py", name]},
        {"remove": ["guest/b.py"], "files": [new, [name, 0o644, coded("x")]]},
    ):
        with pytest.raises(ValueError, match="is not a path below"):
            PayloadFiles(root).take({"type": "files", **message})
    assert (root / "guest/a.py").read_text() == "OLD = 1\n"
    assert (root / "guest/b.py").exists()
    assert (root.parent / "outside.py").read_text() == "outside\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"remove": "guest/a.py"},
        {"files": {"guest/a.py": "x"}},
        {"files": [["guest/a.py", 0o644]]},
        {"files": [["guest/a.py", "644", coded("x")]]},
        {"files": [["guest/a.py", 0o4755, coded("x")]]},
        {"files": [["guest/a.py", True, coded("x")]]},
        {"files": [["guest/a.py", 0o644, "not base64!"]]},
        {"files": [["guest/a.py", 0o644, None]]},
        {"files": [["guest/", 0o755, coded("x")]]},
        {"files": ["guest/a.py"]},
    ],
)
def test_malformed_message_changes_nothing(root: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # base64 has words of its own
        PayloadFiles(root).take({"type": "files", **wrong})
    assert (root / "guest/a.py").read_text() == "OLD = 1\n"
    assert bytecode(root, "a") == 2


def test_file_that_cannot_be_written_is_named(root: Path) -> None:
    said = PayloadFiles(root).take(
        {"type": "files", "files": [["guest/a.py/b.py", 0o644, coded("x")]]}
    )
    assert said["type"] == "filed"
    assert f"{root}/guest/a.py/b.py: " in said["error"]
