# SPDX-License-Identifier: Apache-2.0
"""The failures of a run are kept whole, and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.verdict.failure_record import (
    FAILURES_MAX,
    FILE,
    TEXT_MAX,
    Failure,
    FailureRecord,
    shortened,
)


def report(text: str = "it failed", outcome: Any = "failed", **more: Any) -> pytest.TestReport:
    location = ("suite/test_x.py", 1, "test_x")
    return pytest.TestReport("suite/test_x.py::test_x", location, {}, outcome, text, "call", **more)


def kept(place: Path, *reports: pytest.TestReport) -> dict[str, Any]:
    record = FailureRecord()
    for each in reports:
        record.pytest_runtest_logreport(each)
    record.write(place)
    whole: dict[str, Any] = json.loads((place / FILE).read_text())
    return whole


def test_a_failure_comes_back(tmp_path: Path) -> None:
    memory = {"address": 4096, "length": 64, "name": "ring", "made": "t.py:1"}
    said = report(
        sections=[("What the host saw", "a refusal")],
        user_properties=[("memory", [memory]), ("vm", "2"), ("promise", {})],
    )
    (found,) = kept(tmp_path, said, report(outcome="passed"))["failures"]
    failure = Failure.of(found)
    assert (failure.test, failure.when, failure.vm) == ("suite/test_x.py::test_x", "call", 2)
    assert failure.text == "it failed"
    assert failure.sections == [("What the host saw", "a refusal")]
    assert (failure.memory[0].address, failure.memory[0].made) == (4096, "t.py:1")


def test_without_a_failure_there_is_no_file(tmp_path: Path) -> None:
    FailureRecord().write(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_long_texts_keep_both_ends(tmp_path: Path) -> None:
    (found,) = kept(tmp_path, report("a" * TEXT_MAX + "z" * TEXT_MAX))["failures"]
    assert found["text"].startswith("aaa")
    assert found["text"].endswith("zzz")
    assert len(found["text"]) < TEXT_MAX + 100
    assert shortened("short") == "short"


def test_many_failures_are_counted(tmp_path: Path) -> None:
    whole = kept(tmp_path, *[report()] * (FAILURES_MAX + 3))
    assert (len(whole["failures"]), whole["left out"]) == (FAILURES_MAX, 3)


@pytest.mark.parametrize("memory", [[{"address": -1}], 5, [7]])
def test_memory_that_cannot_exist(memory: Any) -> None:
    value = {"test": "t", "when": "call", "text": "", "vm": 1, "sections": [], "memory": memory}
    with pytest.raises(ValueError, match="memory"):
        Failure.of(value)
