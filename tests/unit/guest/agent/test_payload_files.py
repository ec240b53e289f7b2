# SPDX-License-Identifier: Apache-2.0
"""The message that brings a restored guest's files up to date."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from dma_rehearsal.guest.agent.payload_files import PayloadFiles


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_files_and_folders_are_written_with_their_modes_and_without_a_time(tmp_path: Path) -> None:
    written = [["a/b/x.py", 0o644, encoded("x = 1")], ["tool", 0o755, ""], ["empty/", 0o700, ""]]
    taker = PayloadFiles(tmp_path)
    for _ in "ab":  # a folder that is there already is fine
        assert taker.take({"type": "files", "files": written}) == {"type": "filed"}
    assert (tmp_path / "a/b/x.py").read_text() == "x = 1"
    assert (tmp_path / "a/b/x.py").stat().st_mtime == 0
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o755
    assert (tmp_path / "empty").stat().st_mode == stat.S_IFDIR | 0o700


def test_a_folder_is_removed_with_all_in_it_before_a_file_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "module.py").touch()
    (tmp_path / "link").symlink_to("package")
    message = {
        "type": "files",
        "remove": ["package/", "module.py", "link", "nowhere", "nowhere/"],
        "files": [["module.py/__init__.py", 0o644, ""], ["package", 0o644, encoded("text")]],
    }
    assert PayloadFiles(tmp_path).take(message) == {"type": "filed"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        *("package", "module.py", "module.py/__init__.py"),
    }


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a\0", 7])
def test_a_path_elsewhere_changes_nothing(tmp_path: Path, name: object) -> None:
    root = tmp_path / "root"
    root.mkdir()
    good = ["good", 0o644, ""]
    for message in {"remove": [name]}, {"files": [good, [name, 0o644, ""]]}:
        with pytest.raises(ValueError, match=r"is not a path below"):
            PayloadFiles(root).take({"type": "files", **message})
    assert list(tmp_path.rglob("*")) == [root]


def test_what_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reply = PayloadFiles(tmp_path).take({"type": "files", "files": [["file/x", 0o644, ""]]})
    assert str(reply["error"]).startswith(str(tmp_path / "file"))
