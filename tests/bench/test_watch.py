# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a watch: it reads the verdict's line, and a run that fails is an error."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.process.children import child
from tests.bench.start import Timed
from tests.bench.watch import Watched

LATEST = "build/runs/latest"
PASSED = "--- test_a.py changed\\n1 passed\\nstatus 0 (restored: booted): 1 passed\\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / LATEST).mkdir(parents=True)
    facts = {"start": "booted", "phases": {"restore": 0.5}}
    (tmp_path / LATEST / "attestations.json").write_text(json.dumps(facts))
    (tmp_path / "test_a.py").write_text("pass\n")
    return tmp_path


def after(folder: Path, said: str) -> Timed:
    """Return the time of an edit after which a watch has printed this."""
    with child(["printf", said], stdout=subprocess.PIPE) as process:
        return Watched(folder, process).edit("test_a.py")


def test_edit_is_saved_and_timed_up_to_the_verdict(folder: Path) -> None:
    timed = after(folder, PASSED)
    assert (timed.start, timed.phases) == ("booted", {"restore": 0.5})
    assert timed.seconds > 0
    assert (folder / "test_a.py").read_text() == "pass\n\n# edit 1\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("status 1 (restored: booted): 1 failed\\n", "did not pass"),
        ("Traceback\\n", "the watch has ended: Traceback"),
    ],
)
def test_run_that_fails_is_an_error(folder: Path, said: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        after(folder, said)
