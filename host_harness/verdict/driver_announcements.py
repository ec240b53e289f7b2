# SPDX-License-Identifier: Apache-2.0
"""The guest's words about a driver's rehearsal: its bindings, and the reports that it announces.

They come as properties of a test's report, and are untrusted: they are checked and bounded. An
announcement only takes back an objection of the host's; it makes no promise kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dma_rehearsal.device.layout import CacheReportKind, DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.verdict.caller_names import LoadedModules

RUN = "driver run"
EXPECTS = "driver expects"
_RUNS_MAX, _EXPECTS_MAX = 2000, 20_000  # of one test
_COUNT_MAX = 1 << 20
_MODULES_MAX, _SECTIONS_MAX = 64, 64
_TEXT_MAX = 100
_MARK_END, _ADDRESS_END = 1 << 32, 1 << 64
KINDS = frozenset(
    f"{kind.__name__}.{each.name}"
    for kind in (DriverReportKind, CacheReportKind, DmaReason)
    for each in kind
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Binding:
    """One binding of a driver, from the mark with this number on."""

    mark: int
    driver: str
    condition: str
    loaded: LoadedModules


@dataclass(frozen=True, slots=True)
class Expectation:
    """Reports of these kinds between two marks; ``optional``: none need come."""

    kinds: frozenset[str]
    first: int
    last: int
    count: int | None
    optional: bool

    def __str__(self) -> str:
        count = "" if self.count is None else f", count={self.count}"
        return f"driver.expects({', '.join(sorted(self.kinds))}{count})"


def bindings(properties: Sequence[Sequence[Any]]) -> list[Binding]:
    """Return the bindings of a test; GuestProtocolError for anything else."""
    return _all(properties, RUN, _RUNS_MAX, _binding)


def expectations(properties: Sequence[Sequence[Any]]) -> list[Expectation]:
    """Return a test's announcements; GuestProtocolError for anything else."""
    return _all(properties, EXPECTS, _EXPECTS_MAX, _expectation)


def _all(
    properties: Sequence[Sequence[Any]],
    name: str,
    most: int,
    read: Callable[[Mapping[str, Any]], _T],
) -> list[_T]:
    values = [value for each, value in properties if each == name]
    if len(values) > most:
        raise GuestProtocolError(f"the guest says {name!r} {len(values)} times in one test")
    found = []
    for value in values:
        try:
            found.append(read(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GuestProtocolError(
                f"the guest says {name!r} of what cannot be ({error}): {value!r:.100}"
            ) from None
    return found


def _binding(value: Mapping[str, Any]) -> Binding:
    loaded = value["loaded"]
    if len(loaded) > _MODULES_MAX or any(len(each) > _SECTIONS_MAX for each in loaded.values()):
        raise ValueError("modules")
    return Binding(
        _number(value["mark"], _MARK_END),
        _text(value["driver"]),
        _text(value["condition"]),
        {
            _text(module): {
                _text(name): _number(address, _ADDRESS_END) for name, address in sections.items()
            }
            for module, sections in loaded.items()
        },
    )


def _expectation(value: Mapping[str, Any]) -> Expectation:
    kinds, count = value["kinds"], value["count"]
    first, last = _number(value["first"], _MARK_END), _number(value["last"], _MARK_END)
    if not (isinstance(kinds, list) and 0 < len(kinds) <= len(KINDS) and set(kinds) <= KINDS):
        raise ValueError("kinds")
    if first > last:
        raise ValueError("borders")
    if count is not None and not _number(count, _COUNT_MAX):
        raise ValueError("count")
    if type(value["optional"]) is not bool:
        raise ValueError("optional")
    return Expectation(frozenset(kinds), first, last, count, value["optional"])


def _number(value: object, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise ValueError(f"number {value!r:.40}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise ValueError(f"text {value!r:.40}")
    return printable(value)
