# SPDX-License-Identifier: Apache-2.0
"""The protection unit in a test: the test's own grants, and denials checked in every detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from dma_rehearsal.device.layout import (
    DMASTATUS_CODE,
    DmaDirection,
    DmaReason,
    DmaStatus,
    GrantDirection,
    Reg,
)
from dma_rehearsal.guest.drivers.platform.protection_unit import (
    Grant,
    ProtectionFault,
    ProtectionUnit,
)
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.board import Board
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker, dma_checker_of
from dma_rehearsal.guest.testkit.patterns import difference, inverted

__tracebackhide__ = is_verdict

OWNER = 0x7E57
LINE = 64
IN, OUT, IN_OUT = (
    IODirection.kIODirectionIn,
    IODirection.kIODirectionOut,
    IODirection.kIODirectionInOut,
)


@dataclass(slots=True)
class Guarded:
    """The protection unit while only the test itself grants.

    The bench's own staging buffer is granted. With your own device, have that device do the
    DMA, and announce the denials.
    """

    board: Board
    unit: ProtectionUnit

    @property
    def bench(self) -> DmaChecker:
        """The exerciser's bench; `CheckFailed` with your own device."""
        return dma_checker_of(self.board, "guarded.bench and denied")

    @property
    def function(self) -> int:
        """The requester ID of the exerciser; `CheckFailed` with your own device."""
        return self.bench.device.pci.requester_id

    def grant(
        self, address: int, length: int, direction: IODirection, function: int | None = None
    ) -> Grant:
        """Make a grant, to one function or to every; the end of the test withdraws it."""
        identity = self.unit.grant(address, length, direction, OWNER, function)
        return Grant(identity, address, length, GrantDirection(int(direction)), OWNER, function)

    def denied(
        self,
        address: int,
        length: int,
        *,
        write: bool,
        reason: DmaReason,
        byte: int,
        nearest: Grant,
    ) -> ProtectionFault:
        """Have the device try; it must be refused, and one fault must say exactly this."""
        tries = [(address, length, byte)]
        return self.denied_each(tries, write=write, reason=reason, nearest=nearest)

    def denied_each(
        self,
        tries: Sequence[tuple[int, int, int]],
        *,
        write: bool,
        reason: DmaReason,
        nearest: Grant,
    ) -> ProtectionFault:
        """Have each DMA (address, length, byte at fault) denied; return the last one's fault.

        The unit keeps a limited number of faults, and so many can be tried. Faults are read
        at the end. Of the device's records the last is read, others only when status, count
        and CRC are wrong.
        """
        device, direction = self.bench.device, DmaDirection(write)
        before, count = self.unit.fault_count, device.dma_count
        due: list[ProtectionFault] = []
        with device.expects(reason):
            for address, length, byte in tries:
                number = before + len(due) + 1
                due.append(
                    ProtectionFault(
                        *(number, address, length, direction, reason, byte),
                        *(nearest, self.function),
                    )
                )
                last = len(due) == len(tries)
                self._try(address, length, count, write=write, reason=reason, last=last)
                count = (count + 1) & 0xFFFF_FFFF
        newest = due[-1]
        what = f"{direction.name} of {newest.length} bytes at {newest.address:#x}"
        self.recorded(f"{len(due)} denied, the last a {what}", before, due)
        return newest

    def _try(
        self,
        address: int,
        length: int,
        count: int,
        *,
        write: bool,
        reason: DmaReason,
        last: bool,
    ) -> None:
        """Have the device try one DMA, ``count`` having ended before it.

        Look at its record when it is the ``last``.
        """
        device, direction = self.bench.device, DmaDirection(write)
        device.start_dma(address, length, write_memory=write)
        if (
            not last
            and device.read_register(Reg.DMASTATUS) & DMASTATUS_CODE == DmaStatus.INTERNAL
            and device.last_dma == ((count + 1) & 0xFFFF_FFFF, 0)
        ):
            return
        record = device.end_dma(count)
        outcome = record.status, record.reason, record.moved, record.crc32
        if outcome != (DmaStatus.INTERNAL, reason, 0, 0):
            raise CheckFailed(
                f"{direction.name} of {length} bytes at {address:#x}, which no grant permits: "
                f"status {record.status.name}, {record.reason.name}, {record.moved} bytes "
                f"moved, CRC {record.crc32:08x}; due: INTERNAL, {reason.name}, 0 bytes"
            )

    def recorded(self, what: str, before: int, due: list[ProtectionFault]) -> None:
        """Compare all faults since a count of ``before`` with the expected ones."""
        found = self.unit.faults(before)
        if found == due:
            return
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(found, due, strict=False))
        at = sum(1 for _ in alike)
        raise CheckFailed(
            f"{what}: {len(found)} faults of {len(due)}, from number {at + 1} on they are "
            f"{found[at : at + 2]}; due: {due[at : at + 2]}"
        )


def edges(address: int, length: int) -> list[range]:
    """Return the bytes of the first and of the last cache line of a range, each line once."""
    end = address + length
    first = range(address, min((address // LINE + 1) * LINE, end))
    last = range(max((end - 1) // LINE * LINE, address), end)
    return [first] if first == last else [first, last]


def check_untouched(bench: DmaChecker, view: memoryview, memory: bytes, in_device: bytes) -> None:
    """Compare memory, and the start of the device's buffer, with what was there before."""
    wrong = difference(memory, bytes(view))
    if wrong:
        raise CheckFailed(f"memory, after denied DMA: {wrong}")
    wrong = difference(in_device, bench.stored(len(in_device)))
    if wrong:
        raise CheckFailed(f"the device's buffer, after denied DMA: {wrong}")


def prepare(bench: DmaChecker, view: memoryview, data: bytes) -> bytes:
    """Store ``data`` in memory, and other bytes at every place in the device; return those."""
    view[:] = data
    other = inverted(data)
    bench.load(other)
    return other
