# SPDX-License-Identifier: Apache-2.0
"""Checks the guest's messages about its tests. The guest is untrusted."""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.plain_text import (
    printable,
    printable_lines,
    printable_value,
)
from dma_rehearsal.host_harness.verdict.failed_report import is_subtest

PHASES = ("setup", "call", "teardown")
REPORTS_MAX = 5000  # of one test, with those of its parts
WARNINGS_MAX = 100  # of one test
_OUTCOMES = ("passed", "failed", "skipped")
# The parts of a report that pytest prints as they are; "_subtest.context" is of pytest's subtests.
_SHOWN = ("longrepr", "sections", "wasxfail", "location", "_subtest.context")
_MARK = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ITEMS_MAX = 100_000
_WORDS_MAX = 4000  # characters
_REASONS_MAX, _REASON_MAX = 20, 200  # reasons for leaving out tests, and characters of one


@dataclass(frozen=True, slots=True)
class CollectedItem:
    """One test: its node id, the file below the root of the tests, line, name, and its marks."""

    nodeid: str
    path: str
    line: int
    name: str
    keywords: tuple[str, ...]
    marks: tuple[str, ...]
    promises: tuple[str, ...]


def collected_items(message: Message) -> list[CollectedItem]:
    """Return the tests of a "collected" message. GuestProtocolError for what cannot be a test."""
    items = message.get("items")
    if not isinstance(items, list) or len(items) > _ITEMS_MAX:
        raise GuestProtocolError("the guest's list of tests is not a list, or too long")
    found = [_item(each) for each in items]
    names = {each.nodeid for each in found}
    if len(names) != len(found):
        raise GuestProtocolError("the guest names one test twice")
    return found


def left_out(message: Message) -> dict[str, int]:
    """Return the guest's counts of tests that need another machine, by reason."""
    counts = message.get("left_out", {})
    if not isinstance(counts, dict) or len(counts) > _REASONS_MAX:
        raise GuestProtocolError("the guest's reasons for leaving out tests are malformed")
    for reason, count in counts.items():
        if not (isinstance(reason, str) and reason.isprintable() and len(reason) <= _REASON_MAX):
            raise GuestProtocolError(f"the guest left out tests for a reason {reason!r:.100}")
        if type(count) is not int or not 0 < count <= _ITEMS_MAX:
            raise GuestProtocolError(
                f"the guest left out {count!r:.50} tests, which is not a number"
            )
    return dict(counts)


def collection_errors(message: Message) -> str:
    """Return the guest's collection errors as one text; empty without any."""
    errors = message.get("errors")
    if not isinstance(errors, list):
        raise GuestProtocolError("the guest's list of collection errors is not a list")
    return printable_lines(
        "\n".join(
            f"{each.get('nodeid')}:\n{each.get('longrepr')}"
            if isinstance(each, dict)
            else str(each)
            for each in errors
        )
    )


def _item(value: object) -> CollectedItem:
    if not isinstance(value, dict):
        raise GuestProtocolError(f"the guest names a test that cannot be: {value!r:.100}")
    nodeid, path, name = (_line(value, key) for key in ("nodeid", "path", "name"))
    # It becomes part of the replay command.
    if nodeid.startswith("-") or path.startswith("/") or ".." in path.split("/"):
        raise GuestProtocolError(f"the guest names a test {nodeid!r:.100} in {path!r:.100}")
    line = value.get("lineno")
    if line is not None and not (isinstance(line, int) and 0 <= line < 1 << 31):
        raise GuestProtocolError(f"the guest puts {nodeid} on line {line!r:.100}")
    marks = [mark for mark in _lines(value, "marks") if _MARK.fullmatch(mark)]
    return CollectedItem(
        nodeid,
        path,
        line or 0,
        name,
        _lines(value, "keywords"),
        tuple(marks),
        _lines(value, "promises"),
    )


def _line(value: Message, key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text or not text.isprintable() or len(text) > 4096:
        raise GuestProtocolError(f"the guest names a test whose {key} is {text!r:.100}")
    return text


def _lines(value: Message, key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise GuestProtocolError(f"the guest names a test whose {key} are {texts!r:.100}")
    return tuple(printable(each) for each in texts)


def dropped(message: Message) -> list[str]:
    """Return tests that the guest collected and that a hook there dropped silently."""
    said = message.get("dropped", [])
    if not isinstance(said, list) or len(said) > _REASONS_MAX:
        raise GuestProtocolError("the guest's list of dropped tests is malformed")
    return [printable(str(each))[:_REASON_MAX] for each in said]


def check_count(message: Message, found: Sequence[CollectedItem]) -> None:
    """Refuse a list of tests that is not as long as pytest's own count of them in the guest."""
    count = message.get("count")
    if count != len(found):
        raise GuestProtocolError(
            f"the guest's pytest collected {count!r:.50} tests, and {len(found)} were named"
        )


def report(config: pytest.Config, data: object, nodeid: str) -> pytest.TestReport:
    """Return the test report in ``data``, which must be of the test ``nodeid``.

    GuestProtocolError for anything that pytest could not have reported.
    """
    if not isinstance(data, dict):
        raise GuestProtocolError("the guest sent a malformed report")
    try:
        shown = {name: printable_value(data[name]) for name in _SHOWN if name in data}
        found = config.hook.pytest_report_from_serializable(config=config, data={**data, **shown})
    except Exception as error:
        raise GuestProtocolError(f"the guest sent a malformed report: {error!r:.200}") from error
    if not isinstance(found, pytest.TestReport):
        raise GuestProtocolError("the guest sent something that is not a test report")
    if found.nodeid != nodeid:
        raise GuestProtocolError(f"the guest reports {found.nodeid!r:.100} here")
    if found.when not in PHASES or found.outcome not in _OUTCOMES:
        raise GuestProtocolError(f"the guest reports {found.when!r:.50}: {found.outcome!r:.50}")
    if found.failed and hasattr(found, "wasxfail"):
        raise GuestProtocolError("the guest reports an expected failure as a failure")
    if found.skipped and not hasattr(found, "wasxfail"):
        found.longrepr = _skipped(found.longrepr)
    properties = found.user_properties
    if not isinstance(properties, list) or not all(
        isinstance(each, list | tuple) and len(each) == 2 for each in properties
    ):
        raise GuestProtocolError("the guest sent a report with malformed properties")
    return found


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that the guest's pytest recorded: its class's name, words, file and line."""

    category: str
    message: str
    filename: str
    line: int

    def as_message(self) -> warnings.WarningMessage:
        """Return it as Python records one, without a source line: the file is in the guest."""
        known = getattr(builtins, self.category, None)
        if not (isinstance(known, type) and issubclass(known, Warning)):
            known = type(self.category, (Warning,), {})
        return warnings.WarningMessage(
            known(self.message), known, self.filename, self.line, line=""
        )


def warned(message: Message) -> list[Warned]:
    """Return the warnings in a message; GuestProtocolError for anything else."""
    said = message.get("warnings", [])
    if not isinstance(said, list) or len(said) > WARNINGS_MAX:
        raise GuestProtocolError("the guest's list of warnings is malformed, or too long")
    found = []
    for each in said:
        if not isinstance(each, dict):
            raise GuestProtocolError(f"the guest sent a malformed warning: {each!r:.100}")
        category, words, filename = (each.get(key) for key in ("category", "message", "filename"))
        line = each.get("line")
        if not (
            isinstance(category, str)
            and category.isidentifier()
            and isinstance(words, str)
            and isinstance(filename, str)
            and type(line) is int
            and 0 <= line < 1 << 31
        ):
            raise GuestProtocolError(f"the guest sent a malformed warning: {each!r:.100}")
        words = printable_lines(words[:_WORDS_MAX])
        found.append(Warned(category[:100], words, printable(filename[:_WORDS_MAX]), line))
    return found


def _skipped(said: object) -> tuple[str, int, str]:
    """Return where and why a test was skipped, as the tuple that pytest's own plugins demand."""
    if isinstance(said, list | tuple) and len(said) == 3:
        path, line, reason = said
        if isinstance(path, str) and isinstance(reason, str) and isinstance(line, int | None):
            return path, line or 0, reason
    raise GuestProtocolError(f"the guest reports a test that was skipped {said!r:.100}")


def check_order(reports: Sequence[pytest.TestReport]) -> None:
    """Refuse reports that are not setup, call (after a setup that passed) and teardown.

    Those of a test's parts (subtests) may be anywhere.
    """
    own = [each for each in reports if not is_subtest(each)]
    seen = [each.when for each in own]
    wanted = list(PHASES) if own and own[0].passed else ["setup", "teardown"]
    if seen != wanted:
        raise GuestProtocolError(f"reports are missing: got {seen}, not {wanted}")
