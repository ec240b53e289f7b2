# SPDX-License-Identifier: Apache-2.0
"""The host's view of one test: findings on its claims, and objections to it.

Its evidence is the test's part of the device's trace, and the kernel's DMAR faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dma_rehearsal.host_harness.verdict import (
    claim_judge,
    claims,
    driver_announcements,
    expected_refusals,
    guest_buffers,
    refusals,
)
from dma_rehearsal.host_harness.verdict.claim_judge import Finding
from dma_rehearsal.host_harness.verdict.claims import Claim
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.driver_judge import NOT_A_DRIVERS, DriverVerdict
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.expected_refusals import Matched
from dma_rehearsal.host_harness.verdict.promise import Promise

UNSEEN = "no device saw it: neither a DMA, an interrupt nor a walk during this test"
FULL = (
    "the device's trace is full, so the device's later actions are unknown\n"
    "  next: run fewer tests at a time, or less DMA in each"
)
GAP = (
    "the device's trace leaves out its requests {} to {}, so their effect is unknown\n"
    "  next: look into device.log and device-trace.jsonl: a model may have bypassed its bus"
)
# The evidence that a test's verdict on a promise needs, and the reason given where it is missing.
_MISSING = {
    "bytes": "no DMA moved a byte during this test",
    "refusal": "no DMA that the test announced was refused during this test",
    "interrupt": "no device sent an interrupt during this test",
    "walk": "no walk of page tables succeeded during this test",
    "cache": "the cache model had no command during this test",
    "register": UNSEEN,
}
_TOLD_SHOWN = 3
_INTERRUPTS = {"msi-x", "msi", "intx"}


@dataclass(frozen=True, slots=True)
class HostView:
    """The host's view of a test: findings on its claims, in their order, and objections.

    Each objection is a text whose first line says what is wrong. ``told`` are statements of other
    witnesses, added to what was attested; ``guests_word`` is added to what rests on walks of page
    tables alone. ``rows`` are promises that the trace decides by itself. ``facts`` are the
    objections to a kernel driver's test, apart. ``evidence``: None where no device was looked at.
    """

    evidence: Evidence | None = None
    matched: Matched = field(default_factory=Matched)
    findings: tuple[tuple[Claim, Finding], ...] = ()
    objections: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    witnessed: bool = True
    guests_word: str = ""
    rows: tuple[Promise, ...] = ()
    facts: tuple[DriverFinding, ...] = ()

    def missing(self, row: object) -> str:
        """Return why a test's own verdict on a promise does not count; empty if it does."""
        if self.evidence is None:
            return ""
        kind = str(row.get("evidence") or "bytes") if isinstance(row, Mapping) else ""
        if kind not in _MISSING:
            return f"the test names an unknown kind of evidence: {kind!r:.50}"
        if kind not in self._kinds(self.evidence):
            return _MISSING[kind]
        promise = str(row.get("promise")) if isinstance(row, Mapping) else ""
        ways = claim_judge.WRITES.get(promise, ()) if kind == "bytes" else ()
        # Bytes that went the other way, such as a ring's descriptors, are not what it is about.
        unseen = [
            claim_judge.VERBS[write]
            for write in ways
            if not any(each.moved > 0 and each.write == write for each in self.evidence.requests)
        ]
        return f"no DMA {' or '.join(unseen)} a byte during this test" if unseen else ""

    def _kinds(self, evidence: Evidence) -> Iterable[str]:
        if evidence.moved:
            yield "bytes"
        if self.matched.announced:
            yield "refusal"
        if evidence.kinds & _INTERRUPTS:
            yield "interrupt"
        if any(each.ok for each in evidence.walks):
            yield "walk"
        if "cache" in evidence.kinds:
            yield "cache"
        if evidence.kinds:
            yield "register"


NOTHING_SEEN = HostView()


def check(properties: Sequence[Sequence[Any]]) -> None:
    """Raise GuestProtocolError for a report with malformed properties for the host."""
    expected_refusals.announced(properties)
    expected_refusals.counted(properties)
    claims.claims(properties)
    guest_buffers.rows(properties)
    driver_announcements.bindings(properties)
    driver_announcements.expectations(properties)


def look(
    evidence: Evidence,
    properties: Sequence[Sequence[Any]],
    *,
    iommu: bool = False,
    others: Sequence[str] = (),
    told: Sequence[str] = (),
    witnessed: bool = True,
    guests_word: str = "",
    driver: DriverVerdict = NOT_A_DRIVERS,
    rows: Sequence[Promise] = (),
) -> HostView:
    """Return the host's view of a test by its evidence and its last report's properties.

    ``others`` are objections of other witnesses, ``guests_word`` says what a walk takes from the
    guest. ``driver`` is the verdict on a kernel driver, ``rows`` its promises. GuestProtocolError
    as `check`.
    """
    matched = match(evidence, properties, driver)
    memory = guest_buffers.rows(properties)
    refused = refusals.complaint(matched.unannounced, memory, driver.named)
    if refused and not any(others):  # else these name the faults
        refused += "".join(f"\n  the second witness: {each}" for each in told[:_TOLD_SHOWN])
    facts = [*driver.findings, *refusals.findings(matched.unannounced, memory, driver.named)]
    rest = [
        *driver.objections[driver.told :],
        expected_refusals.complaint(matched.unmet, evidence.refusals),
        expected_refusals.untraced(properties, matched),
        *others,
        FULL if evidence.full else "",
        GAP.format(*evidence.missing) if evidence.missing else "",
    ]
    objections = [*driver.objections[: driver.told], refused, *rest]
    if any(objections):  # a row that they are not about is neither kept nor broken by this test
        rows = [row for row in rows if row.promise in driver.broken]
    facts += [DriverFinding.of("", "", each.splitlines()) for each in rest if each]
    return HostView(
        evidence,
        matched,
        tuple(
            (claim, claim_judge.judge(claim, evidence, iommu=iommu))
            for claim in claims.claims(properties)
        ),
        tuple(filter(None, objections)),
        tuple(told),
        witnessed,
        guests_word,
        tuple(rows),
        tuple(facts),
    )


def match(
    evidence: Evidence, properties: Sequence[Sequence[Any]], driver: DriverVerdict = NOT_A_DRIVERS
) -> Matched:
    """Return the refusals that a test announced, also by ``driver.expects``, and the others.

    GuestProtocolError as `check`.
    """
    said = expected_refusals.announced(properties)
    found = expected_refusals.match(evidence.refusals, said)
    too = [each for each in found.unannounced if each.sequence in driver.announced]
    left = [each for each in found.unannounced if each.sequence not in driver.announced]
    return replace(found, announced=(*found.announced, *too), unannounced=tuple(left))
