# SPDX-License-Identifier: Apache-2.0
"""The host's verdict on a kernel driver in one test: reports that the test did not announce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dma_rehearsal.host_harness.verdict import driver_promises, driver_words
from dma_rehearsal.host_harness.verdict.caller_names import CallerNames, RawCallers
from dma_rehearsal.host_harness.verdict.driver_announcements import (
    Binding,
    Expectation,
    bindings,
    expectations,
)
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.driver_view import DriverView, Mistake
from dma_rehearsal.host_harness.verdict.evidence import Request
from dma_rehearsal.host_harness.verdict.refusals import DriverMemory

_SHOWN = 3  # groups of mistakes that are alike
_FOUND_MAX = 64  # of them that are findings
_NOWHERE: dict[str, dict[str, int]] = {}


@dataclass(frozen=True, slots=True)
class DriverVerdict:
    """``objections`` to the test; ``announced`` are refused requests, by sequence.

    ``named`` is the memory of refused requests, by sequence. ``findings`` are the facts of the
    first ``told`` objections. ``broken`` are the promises of the mappings that they are about.
    """

    objections: tuple[str, ...] = ()
    announced: frozenset[int] = frozenset()
    named: dict[int, DriverMemory] = field(default_factory=dict)
    findings: tuple[DriverFinding, ...] = ()
    told: int = 0
    broken: frozenset[str] = frozenset()


NOT_A_DRIVERS = DriverVerdict()


@dataclass(frozen=True, slots=True)
class _Item:
    """Something that can be announced."""

    position: int
    kind: str
    sequence: int | None = None  # of a refused request
    mistake: Mistake | None = None


def judge(
    view: DriverView,
    properties: Sequence[Sequence[Any]],
    refusals: Sequence[Request],
    names: CallerNames | None = None,
) -> DriverVerdict:
    """Return the verdict; GuestProtocolError for malformed properties.

    Without a binding in the test, only what its refused requests are about is told.
    """
    bound, said = bindings(properties), expectations(properties)
    places = _Places(view, bound, names or RawCallers())
    items = [_Item(each.position, each.kind, mistake=each) for each in view.mistakes]
    items += [
        _Item(each.position, f"DmaReason.{each.reason}", sequence=each.sequence)
        for each in refusals
    ]
    covered: set[int] = set()  # indices
    unmet: list[str] = []
    for each in said:
        met = [index for index, item in enumerate(items) if _covers(each, item, view)]
        covered.update(met)
        if not _satisfied(each, len(met)):
            unmet.append(_unmet(each, len(met), _within(each, items, view)))
    mistakes = [
        item.mistake
        for index, item in enumerate(items)
        if index not in covered and item.mistake is not None
    ]
    of_driver = bool(bound)
    wrong = [each for each in mistakes if of_driver or _by_mail(each)]
    groups = _groups(wrong)
    findings = tuple(_finding(alike, places) for alike in groups[:_FOUND_MAX])
    complaints = _complaints(wrong, groups, findings)
    objections = [
        *complaints,
        *unmet[:_SHOWN],
        _unchecked(view) if of_driver else "",
    ]
    announced = {
        item.sequence for index, item in enumerate(items) if index in covered and item.sequence
    }
    return DriverVerdict(
        tuple(filter(None, objections)),
        frozenset(announced),
        {each.sequence: places.of_refusal(each) for each in refusals},
        findings,
        len(complaints),
        frozenset(
            _broken(wrong, [each for each in refusals if each.sequence not in announced], view)
        ),
    )


def _broken(
    mistakes: Sequence[Mistake], refusals: Sequence[Request], view: DriverView
) -> Iterator[str]:
    """Yield the promises of the mappings that mistakes and refused requests are about."""
    mappings = [each.mapping for each in mistakes]
    for each in refusals:
        if (found := view.refused.get(each.sequence)) is not None:
            mappings += [found.there, found.nearest]
    yield from (driver_promises.promise_of(each) for each in mappings if each is not None)


def _by_mail(mistake: Mistake) -> bool:
    """Whether a mistake was told of a kernel driver, and not of a test's own buffers."""
    return mistake.kind.startswith("DriverReportKind.") or mistake.mapping is not None


class _Places:
    """Names callers at a position of the trace, by what was loaded then."""

    def __init__(self, view: DriverView, bound: Sequence[Binding], names: CallerNames) -> None:
        self._view, self._names = view, names
        placed = [(view.marks.get(each.mark, -1), each) for each in bound]
        self._bound = sorted(placed, key=lambda pair: pair[0])

    def at(self, position: int) -> Binding | None:
        """Return the binding in which an event came: the newest that began before it."""
        found = [each for start, each in self._bound if start <= position]
        return found[-1] if found else next((each for _, each in self._bound), None)

    def name(self, position: int, callers: Sequence[int]) -> str:
        """Return the driver's place among callers."""
        binding = self.at(position)
        return self._names.name(callers, _NOWHERE if binding is None else binding.loaded)

    def condition(self, position: int) -> str:
        """Return the condition of the binding at a position, and its driver."""
        binding = self.at(position)
        return "" if binding is None else f"{binding.condition}, driver {binding.driver}"

    def of_refusal(self, request: Request) -> DriverMemory:
        """Return the mappings that a refused request is about."""
        condition = self.condition(request.position)
        found = self._view.refused.get(request.sequence)
        if found is None:
            return DriverMemory(condition=condition)
        name = partial(self.name, request.position)
        there, nearest = (
            "" if each is None else driver_words.buffer(each, name, found.operations)
            for each in (found.there, found.nearest)
        )
        undone = found.there is not None and bool(found.there.ended)
        return DriverMemory(there, nearest, undone, condition)


def _covers(said: Expectation, item: _Item, view: DriverView) -> bool:
    return item.kind in said.kinds and _is_within(said, item, view)


def _is_within(said: Expectation, item: _Item, view: DriverView) -> bool:
    first, last = view.marks.get(said.first), view.marks.get(said.last)
    return first is not None and last is not None and first < item.position < last


def _within(said: Expectation, items: Iterable[_Item], view: DriverView) -> list[str]:
    return [each.kind for each in items if _is_within(said, each, view)]


def _satisfied(said: Expectation, met: int) -> bool:
    if said.optional and not met:
        return True
    return met == said.count if said.count is not None else met > 0


def _unmet(said: Expectation, met: int, came: Sequence[str]) -> str:
    counted = Counter(came)
    seen = ", ".join(f"{number} {kind}" for kind, number in sorted(counted.items())) or "nothing"
    due = "at least one" if said.count is None else str(said.count)
    return (
        f"{said}: {due} due, {met} came; within it the device's trace has: {seen}\n"
        "  next: remove the announcement if the driver is right; else see whether the with of the "
        "driver ends within it, and whether the condition lets the mistake show"
    )


def _groups(mistakes: Sequence[Mistake]) -> list[list[Mistake]]:
    """Return the mistakes, those that are alike together."""
    groups: dict[tuple[object, ...], list[Mistake]] = {}
    for each in mistakes:
        made = each.mapping.callers if each.mapping is not None else ()
        groups.setdefault((each.kind, each.callers, made), []).append(each)
    return list(groups.values())


def _finding(alike: Sequence[Mistake], places: _Places) -> DriverFinding:
    first = alike[0]
    place = places.name(first.position, first.callers) if first.callers else ""
    return DriverFinding.of(first.kind, place, _of_group(alike, places))


def _complaints(
    mistakes: Sequence[Mistake],
    groups: Sequence[Sequence[Mistake]],
    findings: Sequence[DriverFinding],
) -> list[str]:
    """Return the objection to mistakes that are not announced, as one text; none without any."""
    if not mistakes:
        return []
    lines = [each.text for each in findings[:_SHOWN]]
    if others := groups[_SHOWN:]:
        kinds = ", ".join(
            sorted({each.kind.partition(".")[2] for group in others for each in group})
        )
        lines.append(f"and {sum(map(len, others))} more: {kinds}")
    kinds = ", ".join(sorted({each.kind for each in mistakes}))
    lines.append(f"if it is intended: with driver.expects({kinds}): ... around that part")
    return ["\n".join(lines)]


def _of_group(alike: Sequence[Mistake], places: _Places) -> list[str]:
    first = alike[0]
    name = partial(places.name, first.position)
    is_report = first.kind.startswith("DriverReportKind.")
    lines = (
        driver_words.report(first, name) if is_report else driver_words.cache_report(first, name)
    )
    if condition := places.condition(first.position):
        lines.insert(-1, f"  condition: {condition}")
    if len(alike) > 1:
        lines.append(f"  and {len(alike) - 1} more like it")
    return lines


def _unchecked(view: DriverView) -> str:
    parts = [*view.unchecked]
    if view.lost:
        parts.append(f"{view.lost} more reports, which the host does not keep")
    if not parts:
        return ""
    more = f" (and {len(parts) - 1} more)" if len(parts) > 1 else ""
    return f"the cache model could not check all that the driver did: {parts[0]}{more}"
