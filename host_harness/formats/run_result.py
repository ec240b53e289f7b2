# SPDX-License-Identifier: Apache-2.0
"""The result of a run, as every writer of a format takes it.

Its texts come from the guest, in part. They are cleaned here (`clean_text`): no control character,
no line that is longer than a reader can use. A result whose status is not "passed" always has a
case that failed, so no format can show it as a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.process.errors import Status

RUN = "the run"
"""The group of the cases that are not tests."""
_NO_END = "the run did not end: it was killed, or it goes on"
_PROPERTIES_MAX = 32
_MEANINGS = {
    Status.FAILED: "a test failed, or a promise was not kept",
    Status.USAGE: "no test ran",
    Status.ENVIRONMENT: "the environment cannot be made",
    Status.NO_VERDICT: "the run ended without a verdict",
}


class Outcome(StrEnum):
    """The outcome of a case, in pytest's words."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"

    @property
    def is_bad(self) -> bool:
        """Whether it fails the run."""
        return self in (Outcome.FAILED, Outcome.ERROR)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a source file: a path relative to the project, and a line from 1 if known."""

    file: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A report about a driver: its kind, its first line, all of its lines, and its place."""

    kind: str
    what: str
    text: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One test, or something that failed outside of the tests.

    ``promises`` has the verdicts by the name of the promise, such as "kept x2"; ``reason`` is one
    line, ``text`` has many.
    """

    nodeid: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    text: str = ""
    place: Place | None = None
    promises: Mapping[str, str] = field(default_factory=dict)
    properties: Sequence[tuple[str, str]] = ()
    findings: Sequence[Finding] = ()

    @property
    def group(self) -> str:
        """The file of the test."""
        path, separator, _ = self.nodeid.partition("::")
        return (path.strip() or clean_text.UNNAMED) if separator else RUN

    @property
    def name(self) -> str:
        """Its name within the group."""
        _, separator, name = self.nodeid.partition("::")
        return (name.strip() or clean_text.UNNAMED) if separator else self.nodeid


@dataclass(frozen=True, slots=True)
class RunResult:
    """The cases in their order, and the facts of the run (seed, kernel, replay, ...), by name.

    ``where`` is the folder of the tests, for findings without a place; ``began`` is in seconds
    since 1970. `of` makes a whole one.
    """

    status: Status
    cases: tuple[Case, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    where: str = "."
    began: float = 0.0

    @classmethod
    def of(
        cls,
        status: Status,
        cases: Iterable[Case],
        facts: Mapping[str, str],
        *,
        reason: str = "",
        where: str = ".",
        began: float = 0.0,
    ) -> RunResult:
        """Return a result with clean texts; ``reason`` says why a run has no verdict."""
        found = [_clean(each) for each in cases]
        complete = status in (Status.PASSED, Status.FAILED)
        bad = any(each.outcome.is_bad for each in found)
        if not complete or (status is Status.FAILED and not bad):
            why = clean_text.block(reason) or _MEANINGS[status]
            words = f"status {status.value}: {_MEANINGS[status]}"
            found.append(
                Case(
                    RUN,
                    Outcome.ERROR,
                    reason=clean_text.line(why.strip().partition("\n")[0]),
                    text=f"{words}\n{why}",
                )
            )
        shown = {name: clean_text.line(text, 4000) for name, text in facts.items() if text}
        return cls(status, tuple(found), shown, clean_text.line(where), began)

    @classmethod
    def incomplete(cls, facts: Mapping[str, str], *, began: float = 0.0) -> RunResult:
        """Return the result of a run that has begun."""
        return cls.of(Status.NO_VERDICT, (), facts, reason=_NO_END, began=began)

    @property
    def is_complete(self) -> bool:
        """Whether the run has a verdict."""
        return self.status in (Status.PASSED, Status.FAILED)

    @property
    def failed(self) -> list[Case]:
        """The cases that fail the run."""
        return [each for each in self.cases if each.outcome.is_bad]

    @property
    def groups(self) -> dict[str, list[Case]]:
        """The cases by their files, in order."""
        found: dict[str, list[Case]] = {}
        for each in self.cases:
            found.setdefault(each.group, []).append(each)
        return found

    def counts(self, cases: Sequence[Case] | None = None) -> dict[Outcome, int]:
        """Return how many cases have each outcome: of the run, or of some of its cases."""
        of = self.cases if cases is None else cases
        return {outcome: sum(each.outcome is outcome for each in of) for outcome in Outcome}

    @property
    def counted(self) -> str:
        """The counts for people."""
        counts = self.counts()
        return ", ".join(
            f"{count} {outcome.value}{'s' * (outcome is Outcome.ERROR and count > 1)}"
            for outcome, count in counts.items()
            if count or outcome in (Outcome.PASSED, Outcome.FAILED)
        )

    def promises(self) -> dict[str, str]:
        """Return the verdicts on each promise, of all tests together: "kept x12, broken x1"."""
        sums: dict[str, dict[str, int]] = {}
        for case in self.cases:
            for promise, verdicts in case.promises.items():
                of = sums.setdefault(promise, {})
                for verdict, count in _counts(verdicts):
                    of[verdict] = of.get(verdict, 0) + count
        return {promise: verdicts_of(of) for promise, of in sums.items()}


def verdicts_of(counts: Mapping[str, int]) -> str:
    """Return counts by verdict as a text, such as "broken x1, kept x2"."""
    return ", ".join(f"{verdict} x{count}" for verdict, count in sorted(counts.items()))


def _counts(verdicts: str) -> Iterable[tuple[str, int]]:
    for word in filter(None, verdicts.split(", ")):
        verdict, _, count = word.partition(" x")
        yield verdict, int(count) if count.isdecimal() else 1


def _clean(case: Case) -> Case:
    return replace(
        case,
        nodeid=clean_text.name(case.nodeid),
        reason=clean_text.line(case.reason),
        text=clean_text.block(case.text),
        place=_clean_place(case.place),
        promises={
            clean_text.name(name): clean_text.line(text) for name, text in case.promises.items()
        },
        properties=tuple(
            (clean_text.name(name), clean_text.block(text, 2000))
            for name, text in list(case.properties)[:_PROPERTIES_MAX]
        ),
        findings=tuple(
            Finding(
                clean_text.line(each.kind, 80),
                clean_text.line(each.what),
                clean_text.block(each.text),
                _clean_place(each.place),
            )
            for each in case.findings
        ),
    )


def _clean_place(place: Place | None) -> Place | None:
    if place is None:
        return None
    file = clean_text.line(place.file)
    return Place(file, place.line if place.line and place.line > 0 else None) if file else None
