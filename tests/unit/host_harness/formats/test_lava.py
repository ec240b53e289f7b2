# SPDX-License-Identifier: Apache-2.0
"""LAVA's signals, read as its dispatcher does: a signal ends at ">", words at white space."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.formats import lava
from dma_rehearsal.host_harness.formats.run_result import Outcome, RunResult
from dma_rehearsal.host_harness.process.errors import Status
from tests.unit.host_harness.formats.results import (
    GREEN,
    HOSTILE,
    NOT_GREEN,
    RED,
    bad,
    hostile,
)

SIGNAL = re.compile(r"<LAVA_SIGNAL_(\S+) ([^>]+)>")


def read(text: str) -> dict[str, str]:
    """Return the results by name; each line is one signal, and each name comes once."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        signal = SIGNAL.fullmatch(line)
        assert signal, line
        kind, words = signal[1], signal[2].split()
        if kind == "TESTSET":
            assert words[0] in ("START", "STOP")
            assert len(words) == (2 if words[0] == "START" else 1)
            continue
        assert kind == "TESTCASE"
        facts = dict(word.split("=") for word in words)
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,200}", facts["TEST_CASE_ID"])
        assert facts["TEST_CASE_ID"] not in found
        found[facts["TEST_CASE_ID"]] = facts["RESULT"]
    return found


def check(result: RunResult) -> None:
    *cases, run = read(lava.write(result)).values()
    assert [each == "fail" for each in cases] == bad(result.cases)
    assert run == ("pass" if result.status is Status.PASSED else "fail")


@pytest.mark.parametrize("result", [GREEN, *NOT_GREEN.values()])
def test_a_reader_sees_each_verdict(result: RunResult) -> None:
    check(result)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_forges_nothing(text: str) -> None:
    check(hostile(text))


@given(st.text(max_size=60), st.sampled_from(list(Outcome)))
def test_no_text_forges_anything(text: str, outcome: Outcome) -> None:
    check(hostile(text, outcome))


def test_a_test_of_the_runs_name_is_another() -> None:
    assert "dma-rehearsal-2" in read(lava.write(hostile("dma-rehearsal")))


def test_its_lines() -> None:
    assert lava.write(RED).splitlines()[:4] == [
        "<LAVA_SIGNAL_TESTSET START guest_tests_test_a>",
        "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=test_in_64 RESULT=pass UNITS=seconds "
        "MEASUREMENT=0.250>",
        "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=TestRing_test_out RESULT=fail UNITS=seconds "
        "MEASUREMENT=1.500>",
        "<LAVA_SIGNAL_TESTSET STOP>",
    ]
