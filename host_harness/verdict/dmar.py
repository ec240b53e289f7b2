# SPDX-License-Identifier: Apache-2.0
"""Faults of an Intel IOMMU, as the guest's kernel prints them on its console.

The kernel writes the console, so a test cannot leave a fault out. (Root in the guest could print a
line like it; but the device's trace would not agree.)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict.evidence import Request

# Another task of the guest prints the record, perhaps after the test's report.
PATIENCE_S = 2.0
EXPECTED = "iommu fault"  # the report's property by which a test says what it expects
EXPECTED_MAX = 64  # in one test
_POLL_S = 0.02
# Linux, drivers/iommu/intel/dmar.c, dmar_fault_do_one(); newer kernels put the PCI segment first.
_LINE = re.compile(
    rb"DMAR: \[DMA (?P<kind>Read|Write)[^\]\n]{0,40}\] Request device "
    rb"\[(?:0000:)?(?P<source>[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\] "
    rb"fault addr 0x(?P<address>[0-9a-f]{1,16}) "
    rb"\[fault reason 0x(?P<reason>[0-9a-f]{1,2})\] (?P<text>[ -~]{0,80})\r?\n"
)
_SOURCE = re.compile(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class DmarFault:
    """One fault: ``source`` is bus:device.function, ``address`` the page of the DMA."""

    source: str
    address: int
    write: bool
    reason: int
    text: str

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return (
            f"DMAR fault: {kind} by {self.source} at {self.address:#x}, reason {self.reason}: "
            f"{self.text}"
        )


@dataclass(frozen=True, slots=True)
class ExpectedFault:
    """A fault that the kernel must have printed, according to a test."""

    source: str
    address: int
    write: bool

    def is_told_by(self, fault: DmarFault) -> bool:
        """Whether ``fault`` is this one. The IOMMU keeps the page of an address."""
        return (fault.source, fault.address, fault.write) == (
            self.source,
            self.address & -PAGE,
            self.write,
        )

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return f"{kind} by {self.source} at {self.address:#x}"


def expected(properties: Sequence[Sequence[Any]]) -> list[ExpectedFault]:
    """Return the faults that a report's properties name; GuestProtocolError for anything else."""
    found = [value for name, value in properties if name == EXPECTED]
    if len(found) > EXPECTED_MAX:
        raise GuestProtocolError(f"the guest expects {len(found)} faults in one test")
    return [_expected(value) for value in found]


def _expected(value: object) -> ExpectedFault:
    if isinstance(value, dict):
        source, address, write = (value.get(each) for each in ("source", "address", "write"))
        if (
            isinstance(source, str)
            and _SOURCE.fullmatch(source)
            and type(address) is int
            and 0 <= address < 1 << 64
            and type(write) is bool
        ):
            return ExpectedFault(source, address, write)
    raise GuestProtocolError(f"the guest expects a fault that cannot be: {value!r:.100}")


class DmarLog:
    """Follows the console's log for faults. ``catch_up`` waits until the log is complete."""

    def __init__(self, path: Path, catch_up: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._catch_up = catch_up
        self._offset = 0

    def take(self) -> list[DmarFault]:
        """Return the faults that were printed since the last call."""
        self._catch_up()
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [
            DmarFault(
                found["source"].decode(),
                int(found["address"], 16),
                found["kind"] == b"Write",
                int(found["reason"], 16),
                found["text"].decode().rstrip(),
            )
            for found in _LINE.finditer(whole)
        ]

    def await_all(
        self, wanted: Sequence[ExpectedFault], announced: Sequence[Request] = ()
    ) -> FaultComparison:
        """Take what was printed, and wait for what is ``wanted`` of it, `PATIENCE_S` at most."""
        told: list[DmarFault] = []
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told += self.take()
            outcome = compare(wanted, told, announced)
            if not outcome.missing or time.monotonic() > deadline:
                return outcome
            time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class FaultComparison:
    """The faults of a test: all that were ``told``, and the ``missing`` and ``unexpected`` ones."""

    told: tuple[DmarFault, ...] = ()
    missing: tuple[ExpectedFault, ...] = ()
    unexpected: tuple[DmarFault, ...] = ()

    @property
    def complaint(self) -> str:
        """The objection; empty when the kernel printed the expected faults and no others."""
        return "; ".join(
            [
                *(f"the guest's kernel printed no DMAR fault: {each}" for each in self.missing),
                *(f"a fault that no test expected: {each}" for each in self.unexpected),
            ]
        )


def compare(
    wanted: Sequence[ExpectedFault],
    told: Sequence[DmarFault],
    announced: Sequence[Request] = (),
) -> FaultComparison:
    """Match each wanted fault with a printed one.

    Other faults are expected where a test ``announced`` a refusal on their page and direction.
    """
    left = list(told)
    missing = []
    for each in wanted:
        match = next((fault for fault in left if each.is_told_by(fault)), None)
        if match is None:
            missing.append(each)
        else:
            left.remove(match)
    unexpected = (each for each in left if not any(_is_of(each, one) for one in announced))
    return FaultComparison(tuple(told), tuple(missing), tuple(unexpected))


def _is_of(fault: DmarFault, request: Request) -> bool:
    return fault.write == request.write and any(
        start & -PAGE <= fault.address < start + length for start, length in request.ranges
    )
