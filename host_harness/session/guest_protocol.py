# SPDX-License-Identifier: Apache-2.0
"""What the guest says of its tests, checked. Everything here is a hostile guest's word."""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine.channel import Message
from dma_rehearsal.host_harness.session.run_folder import printable
from dma_rehearsal.host_harness.verdict.failed_report import is_subtest

PHASES = ("setup", "call", "teardown")
REPORTS_MAX = 5000  # of one test, with those of its parts
WARNINGS_MAX = 100  # of one test
_OUTCOMES = ("passed", "failed", "skipped")
_MARK = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ITEMS_MAX = 100_000
_WORDS_MAX = 4000  # characters
_REASONS_MAX, _REASON_MAX = 20, 200  # reasons for leaving out tests, and characters of one


class GuestWordsError(Exception):
    """The guest said something of its tests that cannot be."""


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


def cleaned(value: Any) -> Any:
    """Return a message whose texts have no escape sequences or control characters but newlines."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(each) for key, each in value.items()}
    return value


def collected_items(message: Message) -> list[CollectedItem]:
    """Return the tests of a "collected" message. GuestWordsError for what cannot be a test."""
    items = message.get("items")
    if not isinstance(items, list) or len(items) > _ITEMS_MAX:
        raise GuestWordsError("the guest's list of tests is no list, or too long")
    found = [_item(each) for each in items]
    names = {each.nodeid for each in found}
    if len(names) != len(found):
        raise GuestWordsError("the guest names one test twice")
    return found


def left_out(message: Message) -> dict[str, int]:
    """Return how many tests the guest says are for another machine than this one, by reason."""
    counts = message.get("left_out", {})
    if not isinstance(counts, dict) or len(counts) > _REASONS_MAX:
        raise GuestWordsError("the guest's reasons for leaving out tests are none")
    for reason, count in counts.items():
        if not (isinstance(reason, str) and reason.isprintable() and len(reason) <= _REASON_MAX):
            raise GuestWordsError(f"the guest left out tests for a reason {reason!r:.100}")
        if type(count) is not int or not 0 < count <= _ITEMS_MAX:
            raise GuestWordsError(f"the guest left out {count!r:.50} tests, which is no number")
    return dict(counts)


def collection_errors(message: Message) -> str:
    """Return what the guest could not collect, as one text; empty when there is nothing."""
    errors = message.get("errors")
    if not isinstance(errors, list):
        raise GuestWordsError("the guest's list of collection errors is no list")
    return "\n".join(
        f"{each.get('nodeid')}:\n{each.get('longrepr')}" if isinstance(each, dict) else str(each)
        for each in errors
    )


def _item(value: object) -> CollectedItem:
    if not isinstance(value, dict):
        raise GuestWordsError(f"the guest names a test that is none: {value!r:.100}")
    nodeid, path, name = (_line(value, key) for key in ("nodeid", "path", "name"))
    # It goes into a command line that people are told to run again.
    if nodeid.startswith("-") or path.startswith("/") or ".." in path.split("/"):
        raise GuestWordsError(f"the guest names a test {nodeid!r:.100} in {path!r:.100}")
    line = value.get("lineno")
    if line is not None and not (isinstance(line, int) and 0 <= line < 1 << 31):
        raise GuestWordsError(f"the guest puts {nodeid} on line {line!r:.100}")
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
        raise GuestWordsError(f"the guest names a test whose {key} is {text!r:.100}")
    return text


def _lines(value: Message, key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise GuestWordsError(f"the guest names a test whose {key} are {texts!r:.100}")
    return tuple(printable(each) for each in texts)


def dropped(message: Message) -> list[str]:
    """Return tests that the guest collected, and of which a hook there said nothing more."""
    said = message.get("dropped", [])
    if not isinstance(said, list) or len(said) > _REASONS_MAX:
        raise GuestWordsError("the guest's list of dropped tests is none")
    return [printable(str(each))[:_REASON_MAX] for each in said]


def check_count(message: Message, found: Sequence[CollectedItem]) -> None:
    """Refuse a list of tests that is not as long as pytest's own count of them in the guest."""
    count = message.get("count")
    if count != len(found):
        raise GuestWordsError(
            f"the guest's pytest collected {count!r:.50} tests, and {len(found)} were named"
        )


def report(config: pytest.Config, data: object, nodeid: str) -> pytest.TestReport:
    """Return the test report in ``data``, which must be of the test ``nodeid``.

    GuestWordsError for anything that pytest could not have said of it.
    """
    if not isinstance(data, dict):
        raise GuestWordsError("the guest sent a report that is none")
    try:
        found = config.hook.pytest_report_from_serializable(config=config, data=data)
    except Exception as error:
        raise GuestWordsError(f"the guest sent a report that is none: {error!r:.200}") from error
    if not isinstance(found, pytest.TestReport):
        raise GuestWordsError("the guest sent no test report")
    if found.nodeid != nodeid:
        raise GuestWordsError(f"the guest reports {found.nodeid!r:.100} here")
    if found.when not in PHASES or found.outcome not in _OUTCOMES:
        raise GuestWordsError(f"the guest reports {found.when!r:.50}: {found.outcome!r:.50}")
    if found.failed and hasattr(found, "wasxfail"):
        raise GuestWordsError(
            "the guest reports a failure that was expected and failed all the same"
        )
    if found.skipped and not hasattr(found, "wasxfail"):
        found.longrepr = _skipped(found.longrepr)
    properties = found.user_properties
    if not isinstance(properties, list) or not all(
        isinstance(each, list | tuple) and len(each) == 2 for each in properties
    ):
        raise GuestWordsError("the guest sent a report whose properties are none")
    return found


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that the guest's pytest recorded: its class's name, words, file and line."""

    category: str
    message: str
    filename: str
    line: int

    def as_message(self) -> warnings.WarningMessage:
        """Return it as Python records one; nobody looks for its source line on this machine."""
        known = getattr(builtins, self.category, None)
        if not (isinstance(known, type) and issubclass(known, Warning)):
            known = type(self.category, (Warning,), {})
        return warnings.WarningMessage(
            known(self.message), known, self.filename, self.line, line=""
        )


def warned(message: Message) -> list[Warned]:
    """Return the warnings in a message; GuestWordsError for what is none."""
    said = message.get("warnings", [])
    if not isinstance(said, list) or len(said) > WARNINGS_MAX:
        raise GuestWordsError("the guest's list of warnings is none, or too long")
    found = []
    for each in said:
        if not isinstance(each, dict):
            raise GuestWordsError(f"the guest warns of nothing: {each!r:.100}")
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
            raise GuestWordsError(f"the guest warns of nothing: {each!r:.100}")
        found.append(Warned(category[:100], words[:_WORDS_MAX], filename[:_WORDS_MAX], line))
    return found


def _skipped(said: object) -> tuple[str, int, str]:
    """Return where and why a test was skipped, as the tuple that pytest's own plugins demand."""
    if isinstance(said, list | tuple) and len(said) == 3:
        path, line, reason = said
        if isinstance(path, str) and isinstance(reason, str) and isinstance(line, int | None):
            return path, line or 0, reason
    raise GuestWordsError(f"the guest reports a test that was skipped {said!r:.100}")


def check_order(reports: Sequence[pytest.TestReport]) -> None:
    """Refuse reports that are not setup, call (after a setup that passed) and teardown.

    Those of a test's parts (subtests) may stand anywhere.
    """
    own = [each for each in reports if not is_subtest(each)]
    seen = [each.when for each in own]
    wanted = list(PHASES) if own and own[0].passed else ["setup", "teardown"]
    if seen != wanted:
        raise GuestWordsError(f"reports are missing: got {seen}, not {wanted}")
