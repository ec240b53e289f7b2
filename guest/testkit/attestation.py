# SPDX-License-Identifier: Apache-2.0
"""Attest: how a test states a promise and its verdict.

A verdict travels in the test's report, as a user property; the host makes the table from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import pytest

from dma_rehearsal.guest.drivers.pci_sysfs import PciError
from dma_rehearsal.guest.iobuffer import CacheMode, IODirection, IOMemoryDescriptor, IOOptions
from dma_rehearsal.guest.testkit.claims import PROPERTY as CLAIM
from dma_rehearsal.guest.testkit.claims import (
    Evidence,
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
    """Whether an error is a verdict on the device: the rig's own frames do not explain it.

    As a module's ``__tracebackhide__`` it keeps them out of the report.
    """
    return error.errisinstance((CheckFailed, pytest.fail.Exception))


__tracebackhide__ = is_verdict


class CheckFailed(AssertionError):
    """What the device did is not what was promised; the message says where.

    Out of a test it breaks the promises that the test is marked with.
    """


@dataclass(slots=True)
class Attest:
    """Verdicts on promises, for one test.

    `direction`, `contiguous`, `alignment`, `cache` and `released` claim that a buffer has what was
    promised: the host judges it by the trace of what devices did in this test. For what only the
    test can know, call it with what was asked and what was seen.
    """

    properties: list[tuple[str, Any]] = field(default_factory=list)
    evidence: Evidence | None = None

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

        ``reason`` says why it is broken. ``evidence`` is what the verdict rests on, without which
        the host does not take a kept promise for one: "bytes" that a device moved, an announced
        "refusal", an "interrupt", a "walk" of the page tables, the "cache" model's commands, or
        accesses of a "register".
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

        All DMA counts from when the memory was made until now, also what went to bounce memory in
        its place. Broken when some went the other way.
        """
        direction = memory.getDirection()
        if direction not in (
            IODirection.kIODirectionIn,
            IODirection.kIODirectionOut,
            IODirection.kIODirectionInOut,
        ):
            raise ValueError(f"{memory!r} has no direction that could be attested")
        ranges = [list(segment) for segment in reached_of(memory)]
        where = {"direction": direction.name, "ranges": ranges}
        self._claim(memory, "direction", direction.name, asked, **where)

    def contiguous(self, memory: Memory, *, promise: str = "", asked: str = "") -> None:
        """Claim that it is one segment for the device, and physically one run under its mapping.

        Devices must have moved bytes of every page. Behind an IOMMU only the segment counts.
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
        """Claim that devices used it from an address on that is a multiple of ``alignment``."""
        ((start, _), *_) = segments_of(memory)
        said = asked or str(alignment)
        if start % alignment:
            self("alignment", asked=said, attested=hex(start), kept=False)
        self._claim(memory, "alignment", "alignment", said, alignment=alignment)

    def cache(
        self, memory: Memory, mode: CacheMode | IOOptions | None = None, *, asked: str = ""
    ) -> None:
        """Claim that each page of its mapping has the memory type of ``mode``: the mode asked for.

        ``mode`` may also be the options that have it, such as kIOMapInhibitCache.

        The witness walks the mapping. In this process alone: memory that is not mapped here has
        nothing to be walked.
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
        """Claim that no device reaches what the memory was, now that it is released.

        Nothing may have been granted of it by now, nor be moved of it until the test's end, or
        until the allocator hands it out again.
        """
        if not memory.released:
            raise ValueError(f"{memory!r} lives: release() it, then attest that it was")
        self._claim(memory, "released", "release", asked, mark=self._evidence().mark())

    def _claim(self, memory: Memory, kind: str, promise: str, asked: str, **more: object) -> None:
        if not segments_of(memory):
            raise ValueError(f"{memory!r} was never prepared, so no device could use it")
        said = asked or f"{size_of(memory)} bytes"
        made = claim(memory, kind, promise, said, self._evidence(), **more)
        self.properties.append((CLAIM, made))

    def _evidence(self) -> Evidence:
        if self.evidence is None:
            raise PciError(
                "there is no platform here whose trace could tell: attest(..., kept=...) states "
                "what the test itself has seen"
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

        ``source`` is the device as bus:device.function, ``address`` the first byte at fault. The
        test's promises are broken when it is not there.
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
        """Add a row; ``verdict`` is kept, broken, unattested or unsupported. Fails nothing.

        For the table of cache modes, ``facts`` name the "mode" and what is known of it: its
        "effective" type, who "agreed" on that ("driver, host"), its "no-snoop" behaviour.
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
