# SPDX-License-Identifier: Apache-2.0
"""The page: whole cells, the story of a failure, bounded, and inert whatever a guest says."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.run_page import page
from tests.unit.host_harness.run_page.run_folders import (
    BUFFER,
    EVENTS,
    FAILURE,
    HOSTILE,
    TEST,
    folder,
    request,
    row,
)

_VOID = {"meta", "input", "br"}


class _Parsed(HTMLParser):
    """Reads a page: its elements, attributes and text; ``unclosed`` must end empty."""

    def __init__(self, made: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.unclosed: list[str] = []
        self.words: list[str] = []
        self.feed(made)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def parsed(made: str) -> _Parsed:
    found = _Parsed(made)
    assert found.unclosed == []
    return found


def test_the_story_of_a_failure(tmp_path: Path) -> None:
    made = page.make(folder(tmp_path))
    text = parsed(made).text
    assert "FAILED 1 passed, 1 failed" in text
    assert "ring: a read of 64 bytes at 0xc010fc1 was refused" in text
    assert "What the host saw" in text
    assert "why: it goes past the end" in text
    assert "REFUSED: PROTECTION_PAST_END" in text
    assert "suite/test_ring.py:9" in text
    for address in BUFFER, BUFFER + 4096, BUFFER + 4033:  # of the picture
        assert f"{address:#x}" in text
    assert '<path d="M' in made  # the first byte at fault
    assert f"SEED=1 python -m x test {TEST}\n" not in text
    assert f"SEED=1 python -m x test {TEST}" in text


def test_cells_are_whole(tmp_path: Path) -> None:
    asked = "a long request " * 60
    made = page.make(folder(tmp_path, rows=[row(asked=asked), row(asked="another")]))
    assert asked in parsed(made).text


def test_a_green_run_has_no_story(tmp_path: Path) -> None:
    place = folder(tmp_path, failures=(), rows=[row()])
    (place / "status").write_text("0\n")
    found = parsed(page.make(place))
    assert "PASSED" in found.text
    assert "What failed" not in found.text
    assert "svg" not in found.tags


def test_a_run_without_a_verdict_says_why(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("4\n")
    (tmp_path / "attestations.json").write_text(json.dumps({"error": "the guest <panicked>"}))
    found = parsed(page.make(tmp_path))
    assert "NO VERDICT" in found.text
    assert "the guest <panicked>" in found.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attestations.json", "attestations.json cannot be read"),
        ("failures.json", "failures.json cannot be read"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, name: str, words: str) -> None:
    (folder(tmp_path) / name).write_text("[" * 100_000)
    assert words in parsed(page.make(tmp_path)).text


def hostile(value: Any) -> Any:
    """Return JSON with hostile text in place of each text that is not a number."""
    if isinstance(value, dict):
        return {name: hostile(each) for name, each in value.items()}
    if isinstance(value, list):
        return [hostile(each) for each in value]
    if isinstance(value, str) and not value.startswith("0x"):
        return HOSTILE[:120]
    return value


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    test = HOSTILE
    events = [{**hostile(each), "test": test, "event": each["event"]} for each in EVENTS]
    failure = {**hostile(FAILURE), "test": test}
    rows = [hostile(row("broken", test))]
    place = folder(tmp_path, events=events, failures=[failure], rows=rows, notes=[HOSTILE])
    (place / "replay").write_text(f"{HOSTILE}\n")
    for name in "console.log", "dmesg.log", "device.log", "qemu.log":
        (place / name).write_text(f"{HOSTILE}\n")
    found = parsed(page.make(place))
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert "\u202e" not in found.text
    assert "\x1b" not in found.text


def test_the_page_is_bounded(tmp_path: Path) -> None:
    long = HOSTILE * 200
    failures = [{**FAILURE, "text": long, "sections": [["x", long]] * 8}] * 60
    rows = [row("broken", asked=long, promise=f"{n % 9}{long}") for n in range(900)]
    events = [request(number, number << 13, 64, reason="UNMAPPED") for number in range(5000)]
    made = page.make(folder(tmp_path, events=events, failures=failures, rows=rows))
    assert len(made) < 6 << 20
    assert "more, whose stories are left out here" in made
    assert made.count("rows are left out here; attestations.json") > 2


def test_seven_hundred_tests_are_small(tmp_path: Path) -> None:
    rows = [row(test=f"suite/test_{n % 50}.py::test_{n}", asked=f"{n}") for n in range(700)]
    assert len(page.make(folder(tmp_path, rows=rows, failures=()))) < 1 << 18


def test_nothing_is_loaded(tmp_path: Path) -> None:
    made = page.make(folder(tmp_path))
    found = parsed(made)
    (policy,) = (value for _, value in found.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not any(name in ("src", "style", "xlink:href") for name, _ in found.attributes)
    links = [value for name, value in found.attributes if name == "href" and value]
    assert "junit.xml" in links  # which is written later
    assert "qmp.log" not in links
    assert all("/" not in link and ":" not in link for link in links)


def test_what_the_reader_needs_to_have_names(tmp_path: Path) -> None:
    found = parsed(page.make(folder(tmp_path)))
    facts = dict(found.attributes)
    assert facts["lang"] == "en"
    assert found.tags.count("h1") == 1
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= level + 1 for level, after in itertools.pairwise(levels))
    assert ("role", "img") in found.attributes
    assert "aria-labelledby" in facts
    names = [value for name, value in found.attributes if name == "id"]
    assert len(names) == len(set(names))


def test_write_replaces_the_page(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / page.FILE).write_text("old")
    assert page.write(place) == place / page.FILE
    assert (place / page.FILE).read_text().startswith("<!DOCTYPE html>")
    assert not list(place.glob(".report*"))
