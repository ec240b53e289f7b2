# SPDX-License-Identifier: Apache-2.0
"""The command ``report`` writes a run's page again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import report
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from tests.unit.host_harness.run_page.run_folders import folder


def test_it_writes_the_page_and_says_where(tmp_path: Path) -> None:
    out = io.StringIO()
    assert report.run(folder(tmp_path), out) is Status.PASSED
    assert (tmp_path / "report.html").is_file()
    assert str(tmp_path / "report.html") in out.getvalue()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        report.run(tmp_path, io.StringIO())
