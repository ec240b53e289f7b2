# SPDX-License-Identifier: Apache-2.0
"""KTAP and TAP, read by tap.py, level by level: a reader of TAP 13 sees no nested lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tap.parser import Parser

from dma_rehearsal.host_harness.formats import ktap, tap
from dma_rehearsal.host_harness.formats.run_result import Outcome, RunResult
from tests.unit.host_harness.formats.results import (
    BEGUN,
    FACTS,
    GREEN,
    HOSTILE,
    LOST,
    NOT_GREEN,
    RED,
    bad,
    hostile,
)

Write = Callable[[RunResult], str]
WRITERS = {"ktap": (ktap.write, "  "), "tap": (tap.write, "    ")}


@dataclass
class Level:
    """The lines of one level, as the reader has them, and the levels that end at each result."""

    results: list[Any]
    plans: list[int]
    nested: list[Level]
    names: list[str]
    bails: list[str]


def read(text: str, indent: str) -> Level:
    """Read a level, and those nested in it."""
    own: list[str] = []
    nested: list[Level] = []
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith(indent):
            block.append(line.removeprefix(indent))
            continue
        if block:
            nested.append(read("\n".join(block), indent))
            block = []
        own.append(line)
    parsed = list(Parser().parse_text("\n".join(own) + "\n"))
    results = [each for each in parsed if each.category == "test"]
    return Level(
        results,
        [each.expected_tests for each in parsed if each.category == "plan"],
        nested,
        [each.description.removeprefix("- ") for each in results],
        [each.reason for each in parsed if each.category == "bail"],
    )


def check(result: RunResult, write: Write, indent: str) -> Level:
    """Read a result; its verdicts are those of the model."""
    found = read(write(result), indent)
    groups = list(result.groups.values())
    assert found.plans == [len(groups)]
    assert [int(each.number) for each in found.results] == list(range(1, len(groups) + 1))
    assert [not each.ok for each in found.results] == [any(bad(cases)) for cases in groups]
    assert len(set(found.names)) == len(groups)
    assert len(found.nested) == len(groups)
    for level, cases in zip(found.nested, groups, strict=True):
        assert level.plans == [len(cases)]
        assert [int(each.number) for each in level.results] == list(range(1, len(cases) + 1))
        failed = [not (each.ok or each.skip or each.todo) for each in level.results]
        assert failed == bad(cases)
        assert [bool(each.skip) for each in level.results] == [
            each.outcome is Outcome.SKIPPED for each in cases
        ]
        assert len(set(level.names)) == len(cases)
    return found


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("result", [GREEN, *NOT_GREEN.values()])
def test_a_reader_sees_each_verdict(result: RunResult, name: str) -> None:
    check(result, *WRITERS[name])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_forges_nothing(text: str, outcome: Outcome, name: str) -> None:
    check(hostile(text, outcome), *WRITERS[name])


@given(st.text(max_size=60), st.sampled_from(list(Outcome)))
def test_no_text_forges_anything(text: str, outcome: Outcome) -> None:
    for writer in WRITERS.values():
        check(hostile(text, outcome), *writer)


def test_ktap_is_as_ktap_rst_describes_it() -> None:
    """Version line and plan on each level, two spaces, diagnostics before the result."""
    lines = ktap.write(RED).splitlines()
    assert lines[: len(FACTS) + 2] == [
        "KTAP version 1",
        *(f"# {name}: {text}" for name, text in FACTS.items()),
        "1..2",
    ]
    assert lines[len(FACTS) + 2 :][:12] == [
        "  KTAP version 1",
        "  # Subtest: guest_tests/test_a.py",
        "  1..2",
        "  #   promise kIODirectionIn: kept x2",
        "  ok 1 test_in[64]",
        "  #   promise kIODirectionOut: broken x1",
        "  #   E   broken: kIODirectionOut: the device wrote",
        "  #   guest_tests/test_a.py:12: Failed",
        "  not ok 2 TestRing::test_out",
        "not ok 1 guest_tests/test_a.py",
        "  KTAP version 1",
        "  # Subtest: guest_tests/test_b.py",
    ]
    assert "  ok 2 test_later # SKIP needs IOMMU=intel" in lines
    assert "  ok 3 test_known # XFAIL known" in lines


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_ktap_of_a_hostile_guest_has_no_other_lines(text: str) -> None:
    """A failed line has no text after its name, and no diagnostic line looks like a header."""
    result = re.compile(r" *(ok \d+ [^#]+( # (SKIP|XFAIL)( [^#]*)?)?|not ok \d+ [^#]+)")
    other = re.compile(r" *(KTAP version 1|1\.\.\d+|# Subtest: [^#]*|#  .*|#|# [a-z]+: .*)")
    for line in ktap.write(hostile(text)).splitlines():
        assert result.fullmatch(line) or other.fullmatch(line), line


def test_ktap_has_no_words_at_which_kunits_reader_ends() -> None:
    panic = "Kernel panic - not syncing: VFS: Unable to mount root fs"
    text = ktap.write(hostile(panic)) + ktap.write(hostile("reboot: System halted"))
    assert "Kernel panic - not syncing_ VFS_ Unable" in text
    assert "not syncing: VFS:" not in text
    assert "reboot: System" not in text


def test_a_case_has_another_name_than_its_group() -> None:
    """kunit.py takes a result with the group's name for the end of the group."""
    lines = ktap.write(BEGUN).splitlines()
    assert lines[-1] == "not ok 1 the run"
    assert [line for line in lines if line.startswith("  not ok")] == ["  not ok 1 the run-2"]


@pytest.mark.parametrize("text", ["- x", "x ", "  ", "-"])
def test_a_groups_result_has_the_name_of_its_header(text: str) -> None:
    lines = ktap.write(hostile(text)).splitlines()
    header = next(
        line for line in lines[8:] if line.startswith("  # Subtest: ") and "_a" not in line
    )
    assert lines[-1].partition(" 2 ")[2] == header.removeprefix("  # Subtest: ")
    assert not lines[-1].partition(" 2 ")[2].startswith("- ")


def test_tap_has_yaml_that_a_reader_of_yaml_takes() -> None:
    text = tap.write(RED)
    blocks = re.findall(r"^ {6}---\n(.*?)^ {6}\.\.\.$", text, re.MULTILINE | re.DOTALL)
    found = [yaml.safe_load(each) for each in blocks]
    assert found[0] == {"seconds": 0.25, "promises": {"kIODirectionIn": "kept x2"}}
    assert found[1]["severity"] == "fail"
    assert found[1]["message"] == "broken: kIODirectionOut: the device wrote"
    assert (found[1]["file"], found[1]["line"]) == ("guest_tests/test_a.py", 12)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_yaml_of_a_hostile_guest_is_yaml(text: str) -> None:
    blocks = re.findall(
        r"^ {6}---\n(.*?)^ {6}\.\.\.$", tap.write(hostile(text)), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    for each in blocks:
        assert set(yaml.safe_load(each)) >= {"seconds"}


def test_tap_of_a_run_without_a_verdict_bails_out() -> None:
    assert read(tap.write(LOST), "    ").bails == ["test: QEMU ended"]
    assert read(tap.write(RED), "    ").bails == []
