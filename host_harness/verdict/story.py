# SPDX-License-Identifier: Apache-2.0
"""The story of a failed test, from the device's trace: asked, seen, and each request to memory."""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.host_harness.verdict.evidence import Evidence, Grant, Request
from dma_rehearsal.host_harness.verdict.promise import Promise

SECTION = "The story, from the device's trace"
_ROWS_MAX, _REQUESTS_MAX = 10, 20


def lines(evidence: Evidence | None, rows: Sequence[Promise]) -> list[str]:
    """Return the lines about a test: its promises that are not kept, and what devices did.

    Of many requests, the refused ones and the last ones are told.
    """
    wrong = [row for row in rows if row.verdict != "kept"]
    found: list[str] = []
    for row in wrong[:_ROWS_MAX]:
        found.append(f"{row.verdict}: {row.promise}")
        found += [f"  asked: {row.asked}"] if row.asked else []
        found += [f"  seen: {row.attested}"] if row.attested else []
        found += [f"  why: {row.reason}"] if row.reason else []
    found += _more(len(wrong) - _ROWS_MAX, "promises in attestations.json")
    if evidence is None:
        return found
    if not evidence.requests:
        return [*found, "no device asked for memory during this test"]
    told = _chosen(evidence.requests)
    found += [
        f"requests to memory: {len(evidence.requests)}, of which "
        f"{len(evidence.refusals)} were refused"
    ]
    for each in told:
        found += _request(each)
    return [*found, *_more(len(evidence.requests) - len(told), "requests in device-trace.jsonl")]


def _chosen(requests: Sequence[Request]) -> list[Request]:
    """Return the first refused requests, and the last ones of all, in their order."""
    if len(requests) <= _REQUESTS_MAX:
        return list(requests)
    half = _REQUESTS_MAX // 2
    refused = [each for each in requests[:-half] if each.refused][:half]
    return [*refused, *requests[-half:]]


def _request(each: Request) -> list[str]:
    way = "writes" if each.write else "reads"
    parts = f" in {len(each.ranges) + each.left_out} ranges" if len(each.ranges) > 1 else ""
    start = (
        f"  {each.sequence}. {each.device or 'a device'} {way} {each.length} bytes at "
        f"{each.address:#x}{parts}: "
    )
    if not each.refused:
        ended = "" if each.reason == "NONE" else f", then {each.reason}"
        return [f"{start}moved {each.moved}{ended}"]
    byte = "" if each.byte is None else f" at byte {each.byte:#x}"
    moved = f", {each.moved} moved before" if each.moved else ""
    grant = f"       nearest grant: {_grant(each.nearest)}" if each.nearest else ""
    return [f"{start}{each.reason}{byte}{moved}", *([grant] if grant else [])]


def _grant(grant: Grant) -> str:
    alone = f", for {grant.function} alone" if grant.function else ""
    return f"{grant.direction}, {grant.length} bytes at {grant.address:#x}{alone}"


def _more(count: int, what: str) -> list[str]:
    return [f"  and {count} more {what}"] if count > 0 else []
