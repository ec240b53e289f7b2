# SPDX-License-Identifier: Apache-2.0
"""The commit of the tests: git's word, where there is a checkout."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.git_commit import GitCommit


def found(folder: Path) -> str | None:
    with ExitStack() as stack:
        commit = GitCommit(stack, folder)
        assert commit.found() == commit.found()
        return commit.found()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    (tmp_path / "file").write_text("a")
    for words in (["init", "-q"], ["add", "file"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "below").mkdir()
    return tmp_path


def test_commit_of_a_checkout_and_whether_files_differ(checkout: Path) -> None:
    said = found(checkout / "below")
    assert said
    assert re.fullmatch("[0-9a-f]{40}", said)
    (checkout / "file").write_text("b")
    assert found(checkout) == f"{said}-dirty"


def test_program_of_the_checkout_is_not_run(checkout: Path) -> None:
    program = checkout / "monitor"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    words = ["config", "core.fsmonitor", str(program)]
    subprocess.run(["git", *words], cwd=checkout, check=True, timeout=60)
    assert found(checkout)
    assert not (checkout / "ran").exists()


def test_folder_outside_a_checkout_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert found(tmp_path) is None


def test_machine_without_git_has_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert found(checkout) is None


def test_answer_that_nobody_takes_leaves_nothing_open(checkout: Path) -> None:
    with ExitStack() as stack:
        GitCommit(stack, checkout)
