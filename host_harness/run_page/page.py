# SPDX-License-Identifier: Apache-2.0
"""Puts the page of a run together: the verdict, what failed, the promises, the run's files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from dma_rehearsal.host_harness.run_page import promise_rows, trace_story
from dma_rehearsal.host_harness.run_page.failure_story import story
from dma_rehearsal.host_harness.run_page.markup import Html, element, text
from dma_rehearsal.host_harness.run_page.run_record import RunRecord, read
from dma_rehearsal.host_harness.run_page.trace_story import Story
from dma_rehearsal.host_harness.verdict.promise import Promise

FILE = "report.html"  # in a run's folder
STORIES_SIZE_MAX = 1 << 21  # characters of all stories
_STORIES_MAX = 60
_VERDICTS = {
    0: ("passed", "All tests passed, and every promise was kept or is a known gap."),
    1: ("failed", "A test failed, or a promise was not kept."),
    2: ("usage", "The run was asked for in a wrong way, or no test ran."),
    3: ("environment", "The environment cannot be made."),
    4: ("no verdict", "The run was lost before its verdict."),
}
_WORDS = (
    ("kept", "the device saw what was asked for"),
    ("broken", "the device saw something else, or the test failed before it could tell"),
    ("unattested", "nothing outside the allocator confirmed the promise"),
    ("unsupported", "not possible here"),
)


def write(folder: Path) -> Path:
    """Write the page of a run's folder from its files, and return its path. OSError."""
    path = folder / FILE
    partial = folder / f".{FILE}"
    partial.write_text(make(folder), encoding="utf-8", errors="replace")
    partial.replace(path)
    return path


def make(folder: Path) -> str:
    """Return the page of a run's folder."""
    record = read(folder)
    state, meaning = _VERDICTS.get(-1 if record.status is None else record.status, _VERDICTS[4])
    style, script = _source("page.css"), _source("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"{state}: {record.folder.resolve().name} (dma-rehearsal)"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    body = element(
        "body",
        element("a", "To the table of promises", href="#table", class_="skip"),
        _top(record, state, meaning),
        element("main", *_failures(record), *_table(record), *_logs(record), *_files(record)),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _source(name: str) -> Html:
    return Html(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _hash(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _top(record: RunRecord, state: str, meaning: str) -> Html:
    counts = ", ".join(
        f"{count} {name}"
        for name, count in record.counts.items()
        if count or name in ("passed", "failed")
    )
    status = "none" if record.status is None else str(record.status)
    facts = [
        each for name, value in record.facts for each in (element("dt", name), element("dd", value))
    ]
    replay = (
        [
            element("p", "To repeat it:", class_="label"),
            element("pre", text(record.replay, 8000), tabindex=0, class_="command"),
        ]
        if record.replay
        else []
    )
    return element(
        "header",
        element("h1", element("span", state.upper(), class_="state"), f" {counts}"),
        element("p", f"Status {status}. {meaning}"),
        element("pre", record.error, tabindex=0) if record.error else None,
        *(element("p", f"Note: {each}") for each in record.notes[:50]),
        *(element("p", f"This page has a gap: {each}") for each in record.gaps[:20]),
        *replay,
        element("details", element("summary", "The run"), element("dl", *facts)),
        class_=f"top {state.replace(' ', '-')}",
    )


def _failures(record: RunRecord) -> Iterable[Html]:
    if not record.failures:
        return
    by_test: dict[str, list[Promise]] = {}
    for row in record.rows:
        by_test.setdefault(row.test, []).append(row)
    traces = _traces(record)
    found: list[Html] = []
    spent = 0
    for number, failure in enumerate(record.failures[:_STORIES_MAX], 1):
        rows = by_test.get(failure.test, [])
        made = story(failure, rows, traces.get((failure.vm, failure.test)), record, number)
        spent += len(made)
        if spent > STORIES_SIZE_MAX:
            break
        found.append(made)
    count = len(record.failures)
    yield element("h2", f"What failed ({count})")
    yield from found
    if left_out := record.failures[len(found) :]:
        names = element("ul", *(element("li", each.test) for each in left_out[:500]))
        head = element("summary", f"{len(left_out)} more, whose stories are left out here")
        yield element("details", head, names)


def _traces(record: RunRecord) -> Mapping[tuple[int, str], Story]:
    tests: dict[int, set[str]] = {}
    for each in record.failures[:_STORIES_MAX]:
        tests.setdefault(each.vm, set()).add(each.test)
    found = {}
    for vm, names in tests.items():
        folder = record.folder if vm == 1 else record.folder / f"vm{vm}"
        for test, own in trace_story.read(folder / "device-trace.jsonl", names).items():
            found[vm, test] = own
    return found


def _table(record: RunRecord) -> Iterable[Html]:
    yield element("h2", "Promises", id="table")
    if not record.rows:
        yield element("p", "No test attested anything.")
        return
    counts = {name: sum(row.verdict == name for row in record.rows) for name, _ in _WORDS}
    boxes = [
        element(
            "label",
            element("input", type="checkbox", checked=True, value=name),
            f" {name} ({counts[name]})",
        )
        for name, _ in _WORDS
        if counts[name]
    ]
    yield element(
        "form",
        element(
            "label",
            "Search ",
            element(
                "input",
                type="search",
                id="search",
                placeholder="promise, test, address …  ( / )",
                autocomplete="off",
            ),
        ),
        *boxes,
        element("button", "Open all", type="button", id="open-all"),
        element("output", "", id="found", aria_live="polite"),
        id="filter",
        hidden=True,
        role="search",
    )
    yield promise_rows.table(record.rows)
    words = [each for name, words in _WORDS for each in (element("dt", name), element("dd", words))]
    yield element("details", element("summary", "What the verdicts mean"), element("dl", *words))


def _logs(record: RunRecord) -> Iterable[Html]:
    if not record.logs:
        return
    yield element("h2", "Logs", id="logs")
    for name, lines in record.logs.items():
        body = element("pre", text("\n".join(lines), 20_000), tabindex=0)
        yield element("details", element("summary", f"The end of {name}"), body)


def _files(record: RunRecord) -> Iterable[Html]:
    yield element("h2", "Files of the run")
    links = [element("li", element("a", name, href=name)) for name in record.files]
    yield element("ul", *links, class_="files")


__all__ = ["FILE", "make", "write"]
