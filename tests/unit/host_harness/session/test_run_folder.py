# SPDX-License-Identifier: Apache-2.0
"""The folders of runs, and the link to the newest."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.session import run_folder


def test_latest_names_the_newest_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        run_folder.publish(folder)
        assert (tmp_path / "latest").resolve() == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]
