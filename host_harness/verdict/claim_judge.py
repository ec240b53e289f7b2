# SPDX-License-Identifier: Apache-2.0
"""Judges claims by a test's evidence: kept, broken, or unattested where nothing shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.host_harness.verdict import cache_mode_table
from dma_rehearsal.host_harness.verdict.claims import Claim
from dma_rehearsal.host_harness.verdict.evidence import Evidence, Range, Request, Walk, union

NOTHING_MOVED = "no DMA moved a byte of it"
LEFT_OUT = "the trace leaves out ranges of request {}, a long list: cut it, to have it judged"
NO_WALK = "no walk of the page tables covered all of it during this test"
_SHOWN = 2  # ranges
# From IOKit's names, which see a direction from the memory, to whether the device writes.
WRITES = {
    "kIODirectionIn": (True,),
    "kIODirectionOut": (False,),
    "kIODirectionInOut": (True, False),
}
VERBS = {True: "wrote", False: "read"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on one claim, and the grounds for it."""

    verdict: str
    attested: str = ""
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)


def judge(claim: Claim, evidence: Evidence, *, iommu: bool) -> Finding:
    """Judge a claim; ``iommu``: bus addresses are not physical ones."""
    if claim.kind == "direction":
        return _direction(claim, evidence)
    if claim.kind == "contiguous":
        return _contiguous(claim, evidence, iommu=iommu)
    if claim.kind == "alignment":
        return _alignment(claim, evidence)
    if claim.kind == "released":
        return _released(claim, evidence)
    return _cache(claim, evidence)


def _in_time(claim: Claim, evidence: Evidence) -> list[Request]:
    return [
        each
        for each in evidence.requests
        if each.moved > 0
        and each.sequence > claim.first
        and (claim.last is None or each.sequence <= claim.last)
    ]


class _Moved:
    """The parts of some ranges that requests moved."""

    def __init__(self, requests: Sequence[Request], ranges: Sequence[Range]) -> None:
        pairs = [(each, each.moved_within(ranges)) for each in requests]
        self.requests = [each for each, parts in pairs if parts]
        self.parts = union(part for _, parts in pairs for part in parts)

    @property
    def bytes(self) -> int:
        """The number of different bytes."""
        return sum(length for _, length in self.parts)

    def said(self, size: int) -> str:
        """Return a text: how many bytes, where, in how many DMAs, by which devices."""
        places = ", ".join(f"{start:#x}" for start, _ in self.parts[:_SHOWN])
        more = f" and {len(self.parts) - _SHOWN} more places" if len(self.parts) > _SHOWN else ""
        count = len(self.requests)
        devices = ", ".join(sorted({each.device for each in self.requests}))
        return (
            f"{self.bytes} of {size} bytes at {places}{more}, "
            f"{count} DMA{'s' if count > 1 else ''} by {devices}"
        )


def _direction(claim: Claim, evidence: Evidence) -> Finding:
    requests = _in_time(claim, evidence)
    moved = {
        write: _Moved([each for each in requests if each.write == write], claim.ranges)
        for write in (True, False)
    }
    wanted = WRITES[claim.direction]
    said = "; ".join(
        f"{VERBS[write]} {moved[write].said(claim.size)}" for write in moved if moved[write].bytes
    )
    for write in moved:
        if write not in wanted and moved[write].bytes:
            first = moved[write].requests[0]
            why = (
                f"the device {VERBS[write]} {moved[write].bytes} bytes of {claim.where}, which is "
                f"{claim.direction} (request {first.sequence} at {first.address:#x})"
            )
            return Finding("broken", said, why)
    if not said:
        return Finding("unattested", "", NOTHING_MOVED)
    for each in requests:
        if each.left_out and each.write not in wanted:
            return Finding("unattested", said, LEFT_OUT.format(each.sequence))
    silent = [VERBS[write] for write in wanted if not moved[write].bytes]
    if silent:
        return Finding("unattested", said, f"no DMA {' or '.join(silent)} a byte of it")
    return Finding("kept", said)


def _contiguous(claim: Claim, evidence: Evidence, *, iommu: bool) -> Finding:
    if len(claim.ranges) != 1:
        places = ", ".join(f"{start:#x}" for start, _ in claim.ranges[:_SHOWN])
        why = f"{claim.where} has {len(claim.ranges)} ranges, at {places} and so on"
        return Finding("broken", "", why)
    (start, length) = claim.ranges[0]
    moved = _Moved(_in_time(claim, evidence), claim.ranges)
    if not moved.bytes:
        return Finding("unattested", "", NOTHING_MOVED)
    touched = union(
        ((first & -PAGE), ((first + size + PAGE - 1) & -PAGE) - (first & -PAGE))
        for first, size in moved.parts
    )
    pages = (((start + length + PAGE - 1) & -PAGE) - (start & -PAGE)) // PAGE
    count = sum(size for _, size in touched) // PAGE
    said = f"{count} of {pages} pages from {start:#x}; {moved.said(length)}"
    if count != pages:
        return Finding("unattested", said, f"DMA touched {count} of its {pages} pages")
    if not claim.va or iommu:
        return Finding("kept", said)
    walks = _walks(claim, evidence, claim.va, claim.length or length)
    if not walks:
        return Finding("unattested", said, NO_WALK)
    for walk in walks:
        expected = start
        for va, physical, size, _ in walk.over(claim.va, claim.length or length):
            if physical != expected:
                why = f"the CPU finds {va:#x} at {physical:#x}, the device's address is "
                return Finding("broken", said, f"{why}{expected:#x}")
            expected += size
    return Finding("kept", f"{said}; one physical run by the page tables")


def _alignment(claim: Claim, evidence: Evidence) -> Finding:
    start, _ = claim.ranges[0]
    used = [
        each
        for each in _in_time(claim, evidence)
        if any(first == start for first, _ in each.moved_ranges())
    ]
    if not used:
        return Finding("unattested", "", "no DMA began at its first byte")
    said = f"{_Moved(used, claim.ranges).said(claim.size)}, from the first on"
    if start % claim.alignment:
        off = f"{start:#x} is {start % claim.alignment:#x} above a multiple of {claim.alignment:#x}"
        return Finding("broken", said, off)
    return Finding("kept", said)


def _released(claim: Claim, evidence: Evidence) -> Finding:
    mark = evidence.marks.get(claim.mark)
    if mark is None:
        return Finding("unattested", "", f"the trace has no mark {claim.mark} in this test")
    if not mark.protected:
        why = "the protection unit was off, so devices could reach it"
        return Finding("unattested", "", why)
    for grant in mark.grants:
        if grant.overlaps(claim.ranges):
            why = (
                f"devices could still reach {claim.where}: {grant.direction} {grant.length} bytes "
                f"at {grant.address:#x} were granted when it was released"
            )
            return Finding("broken", "", why)
    # The next owner of the memory may use it.
    end = min(
        (
            position
            for position, grant in evidence.granted
            if position > mark.position and grant.overlaps(claim.ranges)
        ),
        default=None,
    )
    for each in evidence.requests:
        if each.position > mark.position and (end is None or each.position < end):
            for first, size in each.moved_within(claim.ranges):
                why = (
                    f"{each.device} {VERBS[each.write]} {size} bytes at {first:#x} after "
                    f"{claim.where} was released (request {each.sequence})"
                )
                return Finding("broken", "", why)
            if each.left_out:
                return Finding("unattested", "", LEFT_OUT.format(each.sequence))
    start, _ = claim.ranges[0]
    return Finding("kept", f"no grant on {claim.size} bytes at {start:#x}, no DMA there since")


def _cache(claim: Claim, evidence: Evidence) -> Finding:
    walks = _walks(claim, evidence, claim.va, claim.length)
    if not walks:
        return Finding("unattested", "", NO_WALK)
    pages = 0
    for walk in walks:
        runs = walk.over(claim.va, claim.length)
        for va, _, _, kind in runs:
            if kind != claim.mode:
                return Finding("broken", f"{kind} at {va:#x}", f"{va:#x} is {kind}")
        pages = (((claim.va + claim.length + PAGE - 1) & -PAGE) - (claim.va & -PAGE)) // PAGE
    said = f"{claim.mode} on all {pages} pages from {claim.va:#x}, by the page tables"
    facts = {cache_mode_table.MODE: claim.promise, cache_mode_table.EFFECTIVE: claim.mode}
    return Finding("kept", said, facts=facts)


def _walks(claim: Claim, evidence: Evidence, va: int, length: int) -> list[Walk]:
    """Return the walks that covered a range: the last before the claim's mark, else all."""
    found = [each for each in evidence.walks if each.ok and each.over(va, length)]
    mark = evidence.marks.get(claim.mark)
    if mark is None:
        return found
    return [each for each in found if each.position < mark.position][-1:]
