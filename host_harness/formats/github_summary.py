# SPDX-License-Identifier: Apache-2.0
"""The summary of a GitHub job: Markdown.

Text of the guest is in blocks of HTML, where Markdown has no meaning and five characters are
escaped. Such a block ends at an empty line, so a newline in it is a character reference.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult
from dma_rehearsal.host_harness.process.errors import Status

_SIZE_MAX = 900_000  # bytes; GitHub takes 1 MiB of a step
_FAILURES_MAX = 50
_TEXT_MAX = 4000  # characters of a failure
_NOT_KEPT = ("broken", "unattested", "unsupported")
_VERDICTS = {Status.PASSED: "passed", Status.FAILED: "failed"}


def write(result: RunResult) -> str:
    """Return the summary: the verdict, the facts, the promises, each failure with its text."""
    verdict = _VERDICTS.get(result.status, "no verdict")
    parts = [f"## dma-rehearsal: {verdict}", f"{result.counted} (status {result.status.value})"]
    failed = result.failed
    for case in failed[:_FAILURES_MAX]:
        parts.append(_failure(case))
    if len(failed) > _FAILURES_MAX:
        parts.append(f"{len(failed) - _FAILURES_MAX} failures more are in the artefacts.")
    if promises := result.promises():
        # The worst first.
        rows = sorted(promises.items(), key=lambda row: not any(w in row[1] for w in _NOT_KEPT))
        parts.append(_table(("promise", "verdicts"), rows))
    if skipped := [each for each in result.cases if each.outcome is Outcome.SKIPPED]:
        rows = [(each.nodeid, each.reason) for each in skipped[:_FAILURES_MAX]]
        parts.append(
            _folded(f"{len(skipped)} skipped", _table(("test", "reason"), rows), is_open=False)
        )
    parts.append(_table(("fact", "value"), result.facts.items()))
    text = ""
    for part in filter(None, parts):
        if len(text.encode()) + len(part.encode()) > _SIZE_MAX:
            text += "The rest is too long for a summary; it is in the artefacts.\n\n"
            break
        text += f"{part}\n\n"
    return text


def _failure(case: Case) -> str:
    place = f" at {case.place.file}:{case.place.line or 1}" if case.place else ""
    title = f"{case.outcome.value}: {case.nodeid}{place}"
    text = clean_text.block(case.text or case.reason, _TEXT_MAX)
    return _folded(title, f"<pre>{_html(text)}</pre>", is_open=True)


def _folded(title: str, content: str, *, is_open: bool) -> str:
    word = " open" if is_open else ""
    return f"<details{word}><summary>{_html(title)}</summary>\n{content}\n</details>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<table>", _row("th", header), *(_row("td", row) for row in rows), "</table>"]
    return "\n".join(lines) if len(lines) > 3 else ""


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_html(each)}</{tag}>" for each in cells) + "</tr>"


def _html(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")
