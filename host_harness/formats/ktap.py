# SPDX-License-Identifier: Apache-2.0
"""KTAP, version 1: Linux's Documentation/dev-tools/ktap.rst.

Each file of tests is a test with nested ones. A result line of a failed test has no text after its
name: a reader may look for a directive there. The text is in diagnostic lines before it, which
never begin like a "Subtest" line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult

_VERSION = "KTAP version 1"
_TEXT_MAX = 4000  # characters of a failure
# Linux's tools/testing/kunit/kunit_parser.py reads no further than these.
_ENDS = (
    *("List of all partitions:", "Kernel panic - not syncing: VFS:"),
    "reboot: System halted",
)
# Directives of ktap.rst; a test that was expected to fail, and did, is "ok", as in kselftest.
_DIRECTIVES = {Outcome.SKIPPED: "SKIP", Outcome.XFAILED: "XFAIL"}


def write(result: RunResult) -> str:
    """Return the result as KTAP."""
    groups = result.groups
    facts = (f"# {name}: {_going_on(text)}" for name, text in result.facts.items())
    found = [_VERSION, *facts]
    found.append(f"1..{len(groups)}")
    names = clean_text.unique(map(_description, groups))
    for number, (name, cases) in enumerate(zip(names, groups.values(), strict=True), 1):
        found += [f"  {line}" for line in _group(name, cases)]
        found.append(f"{_word(cases)} {number} {name}{_all_skipped(cases)}")
    return "\n".join(found) + "\n"


def without_hash(text: str) -> str:
    """Return a description without "#", with which a directive begins."""
    return text.replace("#", "_")


def _description(name: str) -> str:
    """Return a name without "#", and without the "- " that readers skip before a name."""
    return _going_on(without_hash(name)).lstrip("- ") or clean_text.UNNAMED


def _going_on(text: str) -> str:
    """Return a text in which kunit.py does not see the end of a kernel's output."""
    for words in _ENDS:
        text = text.replace(words, words.replace(":", "_"))
    return text


def _group(name: str, cases: Sequence[Case]) -> Iterator[str]:
    yield from (_VERSION, f"# Subtest: {name}", f"1..{len(cases)}")
    # A reader takes a result with the name of the group for the end of the group.
    names = clean_text.unique([name, *(_description(each.name) for each in cases)])[1:]
    for number, (each, own) in enumerate(zip(cases, names, strict=True), 1):
        yield from _diagnostics(each)
        word = "not ok" if each.outcome.is_bad else "ok"
        directive = ""
        if each.outcome in _DIRECTIVES:
            directive = f" # {_DIRECTIVES[each.outcome]} {_going_on(without_hash(each.reason))}"
            directive = directive.rstrip()
        yield f"{word} {number} {own}{directive}"


def _diagnostics(case: Case) -> Iterator[str]:
    for promise, verdicts in case.promises.items():
        yield f"#   promise {_going_on(promise)}: {verdicts}"
    if case.outcome is Outcome.XPASSED:
        yield "#   passed, although it is expected to fail"
    if case.outcome.is_bad:
        for line in clean_text.lines(case.text or case.reason, _TEXT_MAX):
            yield f"#   {_going_on(line)}".rstrip()


def _word(cases: Sequence[Case]) -> str:
    return "not ok" if any(each.outcome.is_bad for each in cases) else "ok"


def _all_skipped(cases: Sequence[Case]) -> str:
    return " # SKIP" if all(each.outcome is Outcome.SKIPPED for each in cases) else ""
