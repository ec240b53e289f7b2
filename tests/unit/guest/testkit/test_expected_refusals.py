# SPDX-License-Identifier: Apache-2.0
"""Refusals that a test announces, with a log in place of the platform's."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.testkit.expected_refusals import Expectations


@dataclass
class Request:
    sequence: int
    reason: DmaReason


@dataclass
class Log:
    """The newest request is ``count``; some of them were refused."""

    count: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def refused_count(self) -> int:
        return len(self.requests)

    def refuse(self, reason: DmaReason) -> None:
        self.count += 1
        self.requests.append(Request(self.count, reason))

    def refused(self, since: int, _known: object) -> list[Request]:
        return [each for each in self.requests if each.sequence > since]


@pytest.fixture
def log() -> Log:
    return Log(count=5)


@pytest.fixture
def said() -> list[tuple[str, object]]:
    return []


@pytest.fixture
def expectations(log: Log, said: list[tuple[str, object]]) -> Expectations:
    made = Expectations(lambda: log, lambda *words: said.append(words))  # type: ignore[arg-type, return-value]
    made.begin()
    return made


def test_what_was_refused_for_the_reason_is_excused(
    expectations: Expectations, log: Log, said: list[tuple[str, object]]
) -> None:
    since = expectations.newest
    log.refuse(DmaReason.UNMAPPED)
    log.refuse(DmaReason.UNMAPPED)
    assert expectations.unannounced()
    expectations.excuse(DmaReason.UNMAPPED, since)
    assert not expectations.unannounced()
    assert said == [("expects", {"reasons": ["UNMAPPED"], "first": 5, "last": 7})]
    log.refuse(DmaReason.UNMAPPED)
    assert expectations.unannounced(), "it came later"


def test_nothing_need_come(
    expectations: Expectations, log: Log, said: list[tuple[str, object]]
) -> None:
    """The host would object to an announcement without a refusal."""
    expectations.excuse(DmaReason.UNMAPPED, log.count)
    assert said == []


def test_neither_earlier_refusals_nor_other_reasons_are_excused(
    expectations: Expectations, log: Log, said: list[tuple[str, object]]
) -> None:
    log.refuse(DmaReason.UNMAPPED)
    since = expectations.newest
    log.refuse(DmaReason.BUS_MASTER_OFF)
    expectations.excuse(DmaReason.UNMAPPED, since)
    assert said == []
    assert expectations.unannounced()


def test_one_that_is_excused_hides_no_earlier_one(expectations: Expectations, log: Log) -> None:
    log.refuse(DmaReason.UNMAPPED)
    since = expectations.newest
    log.refuse(DmaReason.UNMAPPED)
    expectations.excuse(DmaReason.UNMAPPED, since)
    assert expectations.unannounced()
