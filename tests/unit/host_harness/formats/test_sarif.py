# SPDX-License-Identifier: Apache-2.0
"""SARIF, read by sarif-pydantic, which checks each field's type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sarif_pydantic import Sarif

from dma_rehearsal.host_harness.formats import sarif
from dma_rehearsal.host_harness.formats.run_result import RunResult
from tests.unit.host_harness.formats.results import (
    BEGUN,
    FACTS,
    GREEN,
    HOSTILE,
    LOST,
    NOT_GREEN,
    RED,
    hostile,
)


def read(result: RunResult) -> Any:
    """Return the one run of the file, as the reader has it."""
    text = sarif.write(result)
    (run,) = Sarif.model_validate(json.loads(text)).runs
    rules = [each.id for each in run.tool.driver.rules or []]
    for each in run.results or []:
        assert rules[each.rule_index or 0] == each.rule_id
        assert each.message.text
        (location,) = each.locations or []
        assert location.physical_location is not None
        assert location.physical_location.artifact_location is not None
        assert location.physical_location.artifact_location.uri
    return run


def test_a_run_that_passed_has_no_result() -> None:
    run = read(GREEN)
    assert run.results == []
    assert run.invocations[0].execution_successful


@pytest.mark.parametrize("name", NOT_GREEN)
def test_what_did_not_pass_has_one(name: str) -> None:
    run = read(NOT_GREEN[name])
    assert run.results
    assert run.invocations[0].execution_successful is NOT_GREEN[name].is_complete


def test_results_have_places_in_sources() -> None:
    run = read(RED)
    found = {
        each.rule_id: (
            each.locations[0].physical_location.artifact_location.uri,
            each.locations[0].physical_location.region,
        )
        for each in run.results
    }
    assert set(found) == {"test-failed", "test-error", "driver/UNMAP_SIZE"}
    uri, region = found["driver/UNMAP_SIZE"]
    assert (uri, region.start_line) == ("driver/my.c", 88)
    assert found["test-error"] == ("guest_tests", None)  # without a place: the folder of the tests
    whole = json.loads(sarif.write(RED))["runs"][0]
    assert whole["properties"] == {**FACTS, "counts": RED.counted}


def test_a_run_without_a_verdict_says_why() -> None:
    for result, words in (LOST, "QEMU ended"), (BEGUN, "did not end"):
        run = json.loads(sarif.write(result))["runs"][0]
        (notification,) = run["invocations"][0]["toolExecutionNotifications"]
        assert words in notification["message"]["text"]
        assert run["results"][-1]["ruleId"] == "no-verdict"
        assert run["invocations"][0]["exitCode"] == 4


def test_one_mistake_of_a_driver_in_two_tests_is_one_result() -> None:
    finding = RED.cases[-1]
    twice = RunResult(RED.status, (finding, finding), FACTS)
    assert len(json.loads(sarif.write(twice))["runs"][0]["results"]) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_forges_nothing(text: str) -> None:
    assert 1 <= len(read(hostile(text)).results) <= 2


@given(st.text(max_size=60))
def test_no_text_forges_anything(text: str) -> None:
    assert 1 <= len(read(hostile(text)).results) <= 2
