# SPDX-License-Identifier: Apache-2.0
"""Attest: how a test states a promise and its verdict.

A verdict travels in the test's report, as a user property; the host makes the table from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import pytest

from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.iobuffer import CacheMode, IODirection, IOMemoryDescriptor, IOOptions
from dma_rehearsal.guest.testkit.claims import PROPERTY as CLAIM
from dma_rehearsal.guest.testkit.claims import (
    EvidenceSource,
    Memory,
    address_of,
    claim,
    contiguity_of,
    mode_name,
    mode_of,
    reached_of,
    segments_of,
    size_of,
    type_of,
)

EVIDENCE: Final = ("bytes", "refusal", "interrupt", "walk", "cache", "register")


def is_verdict(error: pytest.ExceptionInfo[BaseException]) -> bool:
    """Return whether an error is a verdict on the device, not explained by the kit's own frames.

    As a module's ``__tracebackhide__`` it keeps them out of the report.
    """
    return error.errisinstance((CheckFailed, pytest.fail.Exception))


__tracebackhide__ = is_verdict


class CheckFailed(AssertionError):
    """A check failed: the device broke a promise; the message says where.

    When a test raises it, the promises that the test is marked with are broken.
    """


@dataclass(slots=True)
class Attest:
    """Verdicts on promises, for one test.

    `direction`, `contiguous`, `alignment`, `cache` and `released` claim that a buffer kept a
    promise; the host judges the claim by the trace of the devices' DMA in this test. For what
    only the test can know, call it with what was asked and what was seen.
    """

    properties: list[tuple[str, Any]] = field(default_factory=list)
    evidence: EvidenceSource | None = None

    def __call__(
        self,
        promise: str,
        *,
        asked: object,
        attested: object,
        kept: bool,
        reason: str = "",
        facts: Mapping[str, str] | None = None,
        evidence: str = "bytes",
    ) -> None:
        """Record a promise by the test's own verdict: kept, or broken, which fails the test.

        ``reason`` says why it is broken. ``evidence`` is the basis of the verdict, without
        which the host does not accept it: "bytes" that a device moved, an announced
        "refusal", an "interrupt", a "walk" of the page tables, the "cache" model's
        commands, or accesses of a "register".
        """
        if evidence not in EVIDENCE:
            raise ValueError(f"evidence {evidence!r}: one of {', '.join(EVIDENCE)}")
        verdict = "kept" if kept else "broken"
        why = "" if kept else reason or f"attested: {attested}"
        self.record(promise, asked, attested, verdict, why, facts)
        self.properties[-1][1].update(by="test", evidence=evidence)
        if not kept:
            said = f"; {reason}" if reason and reason != str(attested) else ""
            pytest.fail(f"{promise} is broken: asked {asked}; attested {attested}{said}")

    # Claims, which the host judges.

    def direction(self, memory: Memory, *, asked: str = "") -> None:
        """Claim that devices moved bytes of the memory each way that its direction permits.

        All DMA counts from when the memory was made until now, through bounce memory as
        well. The claim is broken when bytes went the other way.
        """
        direction = memory.getDirection()
        if direction not in (
            IODirection.kIODirectionIn,
            IODirection.kIODirectionOut,
            IODirection.kIODirectionInOut,
        ):
            raise ValueError(f"{memory!r} has no direction to attest")
        ranges = [list(segment) for segment in reached_of(memory)]
        where = {"direction": direction.name, "ranges": ranges}
        self._claim(memory, "direction", direction.name, asked, **where)

    def contiguous(self, memory: Memory, *, promise: str = "", asked: str = "") -> None:
        """Claim that it is one segment for the device, and physically one run under its mapping.

        Devices must have moved bytes of every page. Behind an IOMMU only the segment
        counts.
        """
        name, at = promise or contiguity_of(memory), address_of(memory)
        ranges, length = segments_of(memory), size_of(memory)
        if len(ranges) != 1:
            seen = f"{len(ranges)} segments, the first {ranges[:2]}"
            self(name, asked=asked or f"{length} bytes", attested=seen, kept=False)
        evidence = self._evidence()
        where: dict[str, int] = {}
        if at and not evidence.translated:
            runs = evidence.walk(at, length)
            due = ranges[0][0] - at
            if any(run.physical - run.va != due for run in runs):
                seen = "; ".join(f"{run.va:#x} at {run.physical:#x}" for run in runs)
                self(name, asked=asked or f"{length} bytes", attested=seen, kept=False)
            where = {"va": at, "length": length, "mark": evidence.mark()}
        self._claim(memory, "contiguous", name, asked, **where)

    def alignment(self, memory: Memory, alignment: int, *, asked: str = "") -> None:
        """Claim that devices used it from an address that is a multiple of ``alignment``."""
        ((start, _), *_) = segments_of(memory)
        said = asked or str(alignment)
        if start % alignment:
            self("alignment", asked=said, attested=hex(start), kept=False)
        self._claim(memory, "alignment", "alignment", said, alignment=alignment)

    def cache(
        self, memory: Memory, mode: CacheMode | IOOptions | None = None, *, asked: str = ""
    ) -> None:
        """Claim that each page of its mapping has the memory type of ``mode`` (default: as asked).

        ``mode`` may also be the options that have it, such as kIOMapInhibitCache. The
        witness walks the mapping in this process, so the memory must be mapped here.
        """
        wanted = mode_of(memory) if mode is None else mode
        if isinstance(wanted, IOOptions):
            wanted = wanted.cache_mode
        name, due, at = mode_name(wanted), type_of(wanted).name, address_of(memory)
        length = memory.getLength()
        if not at:
            raise ValueError(f"{memory!r} is not mapped in this process")
        evidence = self._evidence()
        runs = evidence.walk(at, length)
        found = {run.effective.name for run in runs}
        said = asked or f"{due} on {length} bytes"
        if found != {due}:
            self(name, asked=said, attested=", ".join(sorted(found)), kept=False)
        where = {"va": at, "length": length, "mark": evidence.mark()}
        self._claim(memory, "cache", name, said, mode=due, **where)

    def released(self, memory: IOMemoryDescriptor, *, asked: str = "") -> None:
        """Claim that no device reaches the memory any more, now that it is released.

        No grant may cover it now, and no byte of it may move until the test's end, or until
        the allocator hands it out again.
        """
        if not memory.released:
            raise ValueError(f"{memory!r} is not released: release() it, then attest")
        self._claim(memory, "released", "release", asked, mark=self._evidence().mark())

    def _claim(self, memory: Memory, kind: str, promise: str, asked: str, **more: object) -> None:
        if not segments_of(memory):
            raise ValueError(f"{memory!r} was never prepared, so no device can have used it")
        said = asked or f"{size_of(memory)} bytes"
        made = claim(memory, kind, promise, said, self._evidence(), **more)
        self.properties.append((CLAIM, made))

    def _evidence(self) -> EvidenceSource:
        if self.evidence is None:
            raise PciError(
                "without a platform there is no trace to judge by; use attest(..., kept=...) to "
                "state what the test itself has seen"
            )
        return self.evidence

    def broken(self, promise: str, *, asked: object, attested: object, reason: str) -> NoReturn:
        """Record a broken promise and fail the test."""
        self(promise, asked=asked, attested=attested, kept=False, reason=reason)
        raise AssertionError("unreachable")

    def unattested(self, promise: str, *, asked: object, reason: str) -> None:
        """Record a promise that nothing outside the allocator could confirm."""
        self.record(promise, asked, "", "unattested", reason)

    def unsupported(self, promise: str, *, asked: object, code: object, reason: str) -> None:
        """Record an option that raised ``code`` (kIOReturnUnsupported) with ``reason``."""
        self.record(promise, asked, code, "unsupported", reason)

    def expect_fault(self, source: str, address: int, *, write: bool) -> None:
        """Expect the IOMMU's fault of one DMA in the kernel's log, where the host looks for it.

        ``source`` is the device as bus:device.function, ``address`` the first byte at
        fault. The test's promises are broken without that fault.
        """
        fault = {"source": source, "address": address, "write": write}
        self.properties.append(("iommu fault", fault))

    def record(
        self,
        promise: str,
        asked: object,
        attested: object,
        verdict: str,
        reason: str,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Add a row; ``verdict`` is kept, broken, unattested or unsupported. It fails nothing.

        For the table of cache modes, ``facts`` name the "mode", its "effective" type, who
        "agreed" on that ("driver, host"), and its "no-snoop" behaviour.
        """
        row = {
            "promise": promise,
            "asked": str(asked),
            "attested": str(attested),
            "verdict": verdict,
            "reason": reason,
            "facts": dict(facts or {}),
        }
        self.properties.append(("promise", row))
