# SPDX-License-Identifier: Apache-2.0
"""The files: tried at the start, no pass before the end, and never half written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.formats.output_files import OutputFiles
from dma_rehearsal.host_harness.formats.writers import WRITERS
from dma_rehearsal.host_harness.options import outputs
from dma_rehearsal.host_harness.process.errors import UsageError
from tests.unit.host_harness.formats.results import BEGUN, GREEN


def files(text: str, **environment: str) -> OutputFiles:
    return OutputFiles(outputs.parse(text), environment)


def test_each_format_has_its_file_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    text = ",".join(f"{name}={tmp_path / name}" for name in WRITERS)
    made = files(text)
    made.begin(BEGUN)
    for name, write in WRITERS.items():
        assert (tmp_path / name).read_text() == write(BEGUN)
    assert made.finish(GREEN) == []
    for name, write in WRITERS.items():
        assert (tmp_path / name).read_text() == write(GREEN)
    assert {each.name for each in tmp_path.iterdir()} == set(WRITERS)
    assert made.printed == []


def test_an_old_pass_does_not_survive_the_start(tmp_path: Path) -> None:
    path = tmp_path / "r.tap"
    path.write_text(WRITERS["tap"](GREEN))
    files(f"tap={path}").begin(BEGUN)
    assert "Bail out!" in path.read_text()


def test_what_is_printed_is_kept_for_the_end(tmp_path: Path) -> None:
    made = files("lava,github-annotations=" + str(tmp_path / "a"))
    made.begin(BEGUN)
    assert made.printed == []
    made.finish(GREEN)
    assert made.printed == WRITERS["lava"](GREEN).splitlines()


def test_a_jobs_summary_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("# of the step before\n")
    made = files("github-summary", GITHUB_STEP_SUMMARY=str(path))
    made.begin(BEGUN)
    assert "no verdict" in path.read_text()
    made.finish(GREEN)
    assert path.read_text() == "# of the step before\n" + WRITERS["github-summary"](GREEN)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    made = files(f"ktap={tmp_path / 'link'}")
    made.begin(BEGUN)
    made.finish(GREEN)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == WRITERS["ktap"](GREEN)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere/r.tap", "No such file"),
        ("file/r.tap", "Not a directory"),
        ("folder", "it is not a file; FORMAT=- prints"),
        ("/dev/null", "it is not a file"),
        ("x" * 300, "name too long"),
    ],
)
def test_what_cannot_be_written_is_told_at_the_start(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"(?s)tap cannot be written to .*{words}.*next: name"):
        files(f"tap={tmp_path / path}").begin(BEGUN)


def test_a_folder_that_is_read_only_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:  # root may write everywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(UsageError, match="Permission denied"):
        files(f"tap={tmp_path / 'r'}").begin(BEGUN)


def test_a_summary_without_a_job_is_told() -> None:
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY is not set"):
        files("github-summary").begin(BEGUN)


def test_what_is_lost_at_the_end_is_told_and_is_not_a_pass(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    made = files(f"tap={folder / 'r'},ktap={tmp_path / 'k'}")
    made.begin(BEGUN)
    (folder / "r").unlink()
    folder.rmdir()
    (problem,) = made.finish(GREEN)
    assert "tap could not be written" in problem
    assert (tmp_path / "k").read_text() == WRITERS["ktap"](GREEN)


def test_of_a_run_that_could_not_begin_nothing_more_is_written(tmp_path: Path) -> None:
    made = files(f"ktap={tmp_path / 'k'},tap={tmp_path / 'nowhere' / 't'}")
    with pytest.raises(UsageError):
        made.begin(BEGUN)
    assert made.finish(GREEN) == []
    assert not (tmp_path / "nowhere").exists()
