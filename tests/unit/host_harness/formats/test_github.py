# SPDX-License-Identifier: Apache-2.0
"""GitHub's summary, rendered by markdown-it, and annotations, taken apart as a runner does."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dma_rehearsal.host_harness.formats import github_annotations, github_summary
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult
from dma_rehearsal.host_harness.process.errors import Status
from tests.unit.host_harness.formats.results import (
    EMPTY,
    FAILED,
    GREEN,
    HOSTILE,
    LOST,
    NOT_GREEN,
    RED,
    hostile,
)

TAGS = {"h2", "p", "table", "tr", "th", "td", "details", "summary", "pre"}


class Page(HTMLParser):
    """The tags of a page, which must nest, its headings, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name == "open" for name, _ in attrs)
        self._open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["h2"]:
            self.headings.append(data)


def rendered(result: RunResult) -> Page:
    page = Page(MarkdownIt("gfm-like", {"linkify": False}).render(github_summary.write(result)))
    assert set(page.tags) <= TAGS
    return page


@pytest.mark.parametrize(
    ("result", "verdict"),
    [(GREEN, "passed"), (RED, "failed"), (LOST, "no verdict"), (EMPTY, "no verdict")],
)
def test_the_summary_begins_with_the_verdict(result: RunResult, verdict: str) -> None:
    assert rendered(result).headings == [f"dma-rehearsal: {verdict}"]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_adds_no_tag_and_no_heading(text: str) -> None:
    assert rendered(hostile(text)).tags == rendered(hostile("plain")).tags


@given(st.text(max_size=60))
def test_no_text_adds_a_tag(text: str) -> None:
    assert rendered(hostile(text)).tags == rendered(hostile("plain")).tags


def test_the_summary_shows_failures_promises_and_the_replay() -> None:
    text = github_summary.write(RED)
    assert "failed: guest_tests/test_a.py::TestRing::test_out at guest_tests/test_a.py:12" in text
    assert "<tr><td>kIODirectionOut</td><td>broken x2</td></tr>" in text
    assert "<td>cd /x &amp;&amp; SEED=42 run</td>" in text
    assert text.index("kIODirectionOut</td>") < text.index("kIODirectionIn</td>")


def test_the_summary_stays_below_githubs_limit() -> None:
    cases = [
        Case(f"a.py::t{n}", Outcome.FAILED, text="<" * 20_000, promises={f"{n}" * 200: "broken x1"})
        for n in range(5000)
    ]
    text = github_summary.write(RunResult.of(Status.FAILED, cases, {}))
    assert len(text.encode()) < 1 << 20
    assert "4950 failures more are in the artefacts" in text


def commands(text: str) -> list[tuple[dict[str, str], str]]:
    """Return the properties and the message of each annotation."""
    found = []
    for line in text.splitlines():
        head, separator, message = line.removeprefix("::").partition("::")
        kind, _, words = head.partition(" ")
        assert (line[:2], kind, separator) == ("::", "error", "::")
        properties = dict(word.split("=", 1) for word in words.split(","))
        assert set(properties) <= {"file", "line", "title"}
        found.append(({k: unescaped(v) for k, v in properties.items()}, unescaped(message)))
    return found


def unescaped(text: str) -> str:
    for code, character in (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ",")):
        text = text.replace(code, character)
    return text.replace("%25", "%")


def test_a_run_that_passed_has_no_annotation() -> None:
    assert github_annotations.write(GREEN) == ""


@pytest.mark.parametrize("name", NOT_GREEN)
def test_what_did_not_pass_has_one(name: str) -> None:
    assert commands(github_annotations.write(NOT_GREEN[name]))


def test_annotations_have_places_and_the_drivers_come_first() -> None:
    first, *others = commands(github_annotations.write(RED))
    assert first == (
        {"file": "driver/my.c", "line": "88", "title": "DriverReportKind.UNMAP_SIZE"},
        "dma_unmap_single of 64 bytes, mapped with 128\n  next: unmap what was mapped",
    )
    assert others[0][0] == {
        "file": "guest_tests/test_a.py",
        "line": "12",
        "title": "TestRing::test_out",
    }


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_is_one_command(text: str) -> None:
    assert 1 <= len(commands(github_annotations.write(hostile(text)))) <= 2


@given(st.text(max_size=60))
def test_no_text_is_more_than_one_command(text: str) -> None:
    assert 1 <= len(commands(github_annotations.write(hostile(text)))) <= 2


def test_annotations_are_bounded() -> None:
    cases = [Case(f"a.py::t{n}", Outcome.FAILED, text=str(n)) for n in range(100)]
    found = commands(github_annotations.write(RunResult.of(Status.FAILED, [*cases, FAILED], {})))
    assert len(found) == 51
    assert found[-1][1] == "and 51 failures more"
