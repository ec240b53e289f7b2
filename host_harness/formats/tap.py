# SPDX-License-Identifier: Apache-2.0
"""TAP, version 14, with a subtest for each file and YAML diagnostics.

"#" never appears in a description or a reason. TAP 14 could escape it, but readers of older
versions would see a directive there, such as SKIP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.ktap import without_hash
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult

_INDENT = "    "
_TEXT_MAX = 4000  # characters of a failure
# A test that was expected to fail is TODO, whether it failed (not ok) or passed (ok).
_TODO = (Outcome.XFAILED, Outcome.XPASSED)


def write(result: RunResult) -> str:
    """Return the result as TAP; a run without a verdict ends with "Bail out!"."""
    groups = result.groups
    found = ["TAP version 14", f"1..{len(groups)}"]
    found += [f"# {name}: {text}" for name, text in result.facts.items()]
    names = clean_text.unique(map(_description, groups))
    for number, (name, cases) in enumerate(zip(names, groups.values(), strict=True), 1):
        found.append(f"# Subtest: {name}")
        found += [f"{_INDENT}{line}" for line in _group(cases)]
        bad = any(each.outcome.is_bad for each in cases)
        skip = " # SKIP" if all(each.outcome is Outcome.SKIPPED for each in cases) else ""
        found.append(f"{'not ok' if bad else 'ok'} {number} - {name}{skip}")
    if not result.is_complete:
        found.append(f"Bail out! {_description(result.failed[-1].reason)}")
    return "\n".join(found) + "\n"


def _description(text: str) -> str:
    return without_hash(text).replace("\\", "\\\\")


def _group(cases: Sequence[Case]) -> Iterator[str]:
    yield f"1..{len(cases)}"
    names = clean_text.unique(_description(each.name) for each in cases)
    for number, (each, name) in enumerate(zip(cases, names, strict=True), 1):
        bad = each.outcome.is_bad or each.outcome is Outcome.XFAILED
        directive = ""
        if each.outcome is Outcome.SKIPPED or each.outcome in _TODO:
            word = "SKIP" if each.outcome is Outcome.SKIPPED else "TODO"
            directive = f" # {word} {_description(each.reason)}".rstrip()
        yield f"{'not ok' if bad else 'ok'} {number} - {name}{directive}"
        yield from _yaml(each)


def _yaml(case: Case) -> Iterator[str]:
    """Yield the diagnostic block. A JSON string is a YAML one, and has no newline."""
    if not (case.outcome.is_bad or case.promises):
        return
    yield "  ---"
    yield f"  seconds: {case.seconds:.3f}"
    if case.promises:
        yield "  promises:"
        for promise, verdicts in case.promises.items():
            yield f"    {_quoted(promise)}: {_quoted(verdicts)}"
    if case.outcome.is_bad:
        yield f"  severity: {'fail' if case.outcome is Outcome.FAILED else 'error'}"
        yield f"  message: {_quoted(case.reason)}"
        if case.place:
            yield f"  file: {_quoted(case.place.file)}"
            yield f"  line: {case.place.line or 0}"
        yield "  text:"
        for line in clean_text.lines(case.text or case.reason, _TEXT_MAX):
            yield f"    - {_quoted(line)}"
    yield "  ..."


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
