# SPDX-License-Identifier: Apache-2.0
"""A board whose devices do not snoop: the platform's cache model, on for one test.

Each report of the model fails the test, unless the test expects it by its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

from dma_rehearsal.device.layout import DmaAttribute
from dma_rehearsal.device.layout.cache_words import report_words
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.exerciser import DmaRecord
from dma_rehearsal.guest.drivers.platform.cache_unit import (
    CacheModelMode,
    CacheReport,
    CacheReportKind,
    CacheUnit,
)
from dma_rehearsal.guest.drivers.platform.coherence import PlatformCoherence
from dma_rehearsal.guest.drivers.platform.command import PlatformDeviceError
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IOMemoryDescriptor,
    IOOptions,
    Task,
    current_task,
    kIODirectionInOut,
    kIOMapInhibitCache,
)
from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.board import Board
from dma_rehearsal.guest.testkit.buffers import reached_pool
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker, dma_checker_of
from dma_rehearsal.guest.testkit.patterns import difference

__tracebackhide__ = is_verdict

LINE = 64  # bytes
provenance.transparent(__name__)


@dataclass(slots=True)
class NonCoherent:
    """The board while the model is on. `buffer` makes the test's buffers.

    `reads` and `writes` use the exerciser; drive your own device with its own driver.
    """

    board: Board
    unit: CacheUnit
    caches: PlatformCoherence
    _buffers: ExitStack = field(default_factory=ExitStack)
    _settled: bool = False

    @property
    def bench(self) -> DmaChecker:
        """The exerciser's bench; `CheckFailed` with your own device."""
        return dma_checker_of(self.board, "noncoherent.bench, reads and writes")

    def buffer(
        self,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        task: Task | None = None,
    ) -> IOBufferMemoryDescriptor:
        """Make a buffer that is released when the test ends, and tracked until then."""
        return self._buffers.enter_context(
            IOBufferMemoryDescriptor.inTaskWithOptions(
                task or current_task(),
                options,
                capacity,
                alignment,
                pool=reached_pool(self.board.limits),
            )
        )

    # The device.

    def reads(
        self, memory: IOMemoryDescriptor, offset: int, length: int, *, no_snoop: bool = True
    ) -> bytes:
        """Return the bytes that the device reads of a buffer."""
        self._dma(memory, offset, length, write_memory=False, no_snoop=no_snoop)
        return self.bench.stored(length)

    def writes(
        self, memory: IOMemoryDescriptor, offset: int, data: bytes, *, no_snoop: bool = True
    ) -> None:
        """Have the device write to a buffer."""
        self.bench.load(data)
        self._dma(memory, offset, len(data), write_memory=True, no_snoop=no_snoop)

    def _dma(
        self,
        memory: IOMemoryDescriptor,
        offset: int,
        length: int,
        *,
        write_memory: bool,
        no_snoop: bool,
    ) -> DmaRecord:
        address, _ = memory.getPhysicalSegment(offset)
        record = self.bench.dma(address, length, write_memory=write_memory, no_snoop=no_snoop)
        if no_snoop is not (DmaAttribute.NO_SNOOP_ASKED in record.attributes):
            raise CheckFailed(f"no-snoop {no_snoop} asked, the record says {record.attributes!r}")
        return record

    # Reports.

    @contextmanager
    def expects(self, *kinds: CacheReportKind) -> Iterator[list[CacheReport]]:
        """Expect exactly these reports within the ``with``, in order; the list then has them."""
        self._refuse(self.unit.take_reports())
        found: list[CacheReport] = []
        yield found
        found += self.unit.take_reports()
        if [each.kind for each in found] != list(kinds):
            due = ", ".join(each.name for each in kinds) or "none"
            raise CheckFailed(f"reports due: {due}; {self._said_all(found)}")

    def said(self, report: CacheReport) -> str:
        """Return a report in the words that a user reads."""
        return report_words(report, self.caches.name_of)

    def settle(self) -> None:
        """Release the buffers; `CheckFailed` when the model has reports that nobody expected."""
        if self._settled:
            return
        self._settled = True
        self._buffers.close()
        self._refuse(self.unit.take_reports())

    def abandon(self) -> None:
        """Release the buffers of a test that has failed already; print the remaining reports."""
        self._settled = True
        self._buffers.close()
        with suppress(PlatformDeviceError):  # reports were lost
            for each in self.unit.take_reports():
                print(f"the cache model's report: {self.said(each)}")

    def _refuse(self, found: list[CacheReport]) -> None:
        if found:
            raise CheckFailed(f"reports that the test does not expect: {self._said_all(found)}")

    def _said_all(self, found: list[CacheReport]) -> str:
        return "; and ".join(self.said(each) for each in found) or "none came"


@contextmanager
def noncoherent_board(
    board: Board, mode: CacheModelMode = CacheModelMode.STRICT, line: int = LINE, seed: int = 1
) -> Iterator[NonCoherent]:
    """Turn the model on within the ``with``; at its end no report may remain."""
    unit = board.platform.cache
    unit.configure(mode, line, seed)
    made = NonCoherent(board, unit, PlatformCoherence(unit, board.driver))
    before, dma_platform.coherence = dma_platform.coherence, made.caches
    try:
        try:
            # The bench's own DMA needs memory without lines.
            if isinstance(board, DmaChecker) and not board.limits.coherent:
                uncached = kIODirectionInOut | kIOMapInhibitCache
                staging = made.buffer(uncached, board.staging.getLength(), PAGE)
                made.board = replace(board, staging=staging)
            yield made
        except BaseException:
            made.abandon()
            raise
        made.settle()
    finally:
        dma_platform.coherence = before
        unit.configure(CacheModelMode.OFF, line)


def make_owned_by_device(
    board: NonCoherent, mode: CacheMode, direction: IOOptions | int, old: bytes
) -> IOBufferMemoryDescriptor:
    """Make a buffer that the device owns, with ``old`` in memory."""
    made = board.buffer(IOOptions.of(int(direction) | mode << 8), len(old))
    made.writeBytes(0, old)
    made.sync_for_device()
    return made


def name_bytes(seen: bytes, old: bytes, new: bytes) -> str:
    """Return a name for the bytes seen: old bytes, new bytes, or a description of others."""
    names = {old: "old bytes", new: "new bytes"}
    return names.get(seen, f"neither old nor new bytes: {difference(new, seen)}")
