# SPDX-License-Identifier: Apache-2.0
"""The documents that the harness writes are as their schemas say, whatever a guest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict, Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.verdict.documents import reading
from dma_rehearsal.host_harness.verdict.documents.document import ATTESTATIONS
from tests import documents

HOSTILE = ("\x1b[31mred", "\ud800", "\u202eeman", "a\nb", "|", "x" * 100_000, "", "\x00")

RECORDS: tuple[Any, ...] = (None, [], {"verdict": 1}, {"verdict": "kept", "facts": [1]}, "text")


def report(value: Any) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="suite/test_x.py::test_x",
        location=("suite/test_x.py", 1, "test_x"),
        keywords={},
        outcome="passed",
        longrepr=None,
        when="call",
        user_properties=[("promise", value)],
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(run_options.parse({"seed": "0xffffffffffffffff"}), Progress(quiet=True), tmp_path)
    run.open_folder()
    return run


def folder(run: Run) -> Path:
    assert run.folder
    return run.folder


def test_hostile_strings_and_records(run: Run) -> None:
    for text in HOSTILE:
        row = dict.fromkeys(("promise", "asked", "attested", "reason"), text)
        run.ledger.add_test([report({**row, "verdict": "kept", "facts": {text: text}})], [text])
    for value in RECORDS:
        run.ledger.add_test([report(value)])
    run.ledger.notes.append(HOSTILE[0])
    run.ledger.add_failure("agent", HOSTILE[1])
    run.conclude(Status.FAILED)
    assert documents.errors_of(folder(run)) == []
    whole = reading.read(folder(run) / ATTESTATIONS.file, ATTESTATIONS)
    assert len(whole["promises"]) > len(HOSTILE)


@pytest.mark.parametrize("status", list(Status))
def test_run_that_ends_early(run: Run, status: Status) -> None:
    """It has neither verdicts nor an environment."""
    if status is Status.NO_VERDICT:
        run.error = NoVerdict("boot", "the guest is lost")
    run.conclude(status)
    whole = json.loads((folder(run) / ATTESTATIONS.file).read_text())
    assert (whole["start"], whole["vms"]) == (None, 0)
    assert documents.errors_of(folder(run)) == []


def test_property_without_a_name_in_the_schema_is_noticed(run: Run) -> None:
    run.ledger.write(folder(run) / ATTESTATIONS.file, {"new": 1})
    assert any("'new' was unexpected" in each for each in documents.errors_of(folder(run)))
