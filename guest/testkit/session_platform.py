# SPDX-License-Identifier: Apache-2.0
"""The platform of a session, brought into the same state before each test.

The allocator's grants go to the protection unit from before the first buffer on. The unit is on at
each test's setup, also while module fixtures are set up and torn down, so that no result depends on
the test before. The mark ``unprotected`` turns it off for one test.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Final

import pytest

from dma_rehearsal.device.layout import DmaReason, WitnessRun
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.platform import refusals
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.drivers.platform.grants import PlatformAccess, PlatformEvidence
from dma_rehearsal.guest.drivers.platform.request_log import RequestLog
from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.board import Board
from dma_rehearsal.guest.testkit.expected_refusals import Expectations

MEMORY_MAX: Final = 256  # rows of the memory layout for the host
_SHOWN: Final = 3  # buffers in a message


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """State that a test may leave behind: ``grants`` made by hand, the ``cache`` model's mode."""

    grants: int
    cache: CacheModelMode


class SessionPlatform:
    """The platform and the driver's file of one session. A board may have no platform."""

    def __init__(self, *, iommu: bool = False) -> None:
        """``iommu``: the device is behind one, so bus addresses are not physical."""
        self._iommu = iommu
        self._platform: PlatformDevice | None = None
        self._access: PlatformAccess | None = None
        self._driver: Driver | None = None
        self._missing: PciError | None = None
        self._item: pytest.Item | None = None
        self._began = 0
        self.expectations = Expectations(lambda: self.requests, self.say)
        self.stuck = ""  # which call of a driver hangs in the kernel, for the rest of the session

    @property
    def platform(self) -> PlatformDevice:
        """The platform, told this guest's PAT and MTRRs; `PciError` without one."""
        if self._platform is None:
            raise self._missing or PciError("the platform is closed: no test runs")
        return self._platform

    @property
    def driver(self) -> Driver:
        """/dev/dma-rehearsal."""
        if self._driver is None:
            self._driver = Driver()
        return self._driver

    @property
    def requests(self) -> RequestLog:
        """The platform's log of requests; `PciError` without one."""
        return self.platform.requests

    @property
    def present(self) -> bool:
        """Whether there is a platform."""
        return self._platform is not None

    @property
    def translated(self) -> bool:
        """Whether the device is behind an IOMMU."""
        return self._iommu

    def mark(self) -> int:
        """Put a mark into the device's trace; return its number."""
        return self.requests.mark()

    def walk(self, address: int, length: int) -> list[WitnessRun]:
        """Have the witness walk the mapping of a range of this process."""
        return Board(self.platform, self.driver).witness_range(address, length)

    def start(self, item: pytest.Item) -> None:
        """Begin a test: refusals, announcements and dropped buffers from now on are its own."""
        self._item, self._began = item, provenance.operations()
        provenance.dropped(take=True)  # of earlier tests, whose tracebacks kept them
        self.begin()
        if self._platform is not None:
            refusals.use(self.expectations.expects)
            self.expectations.begin()

    def sequence(self) -> int:
        """Return the number of requests so far, 0 without a platform."""
        return self._platform.requests.count if self._platform is not None else 0

    def say(self, name: str, value: object) -> None:
        """Record a property of the test that runs."""
        if self._item is not None:
            self._item.user_properties.append((name, value))

    def announce(self, reasons: frozenset[DmaReason], first: int, last: int) -> None:
        """See `Expectations.announce`."""
        self.expectations.announce(reasons, first, last)

    def check_dropped(self, *, cycles: bool = True) -> None:
        """Fail the test for its own buffers that were dropped without release(). `CheckFailed`.

        Nobody would see a warning of it in a test that passes. ``cycles``: also look at
        reference cycles.
        """
        if cycles:
            gc.collect(1)  # objects of this test; older generations do not hold any
        if found := provenance.dropped(take=True, since=self._began):
            dropped = "; ".join(f"{name}, made at {place}" for name, place in found[:_SHOWN])
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise CheckFailed(
                f"dropped without release(): {dropped}{more}. A device may still use such memory "
                "when it is handed out again: release() it, or make it in a with"
            )

    def left(self) -> LeftBehind:
        """Return the state in force beside the allocator's grants."""
        if self._platform is None or self._access is None:
            return LeftBehind(0, CacheModelMode.OFF)
        return LeftBehind(self._access.others, self._platform.cache.mode)

    def check_left(self, before: LeftBehind) -> None:
        """Fail a test that leaves state behind that was not there ``before``. `CheckFailed`.

        Its own grants would let wrong DMA of later tests pass.
        """
        platform, access, found = self._platform, self._access, self.left()
        if platform is None or access is None:
            return
        if found.cache is not before.cache:
            platform.cache.configure(before.cache)
            raise CheckFailed(
                f"the test leaves the cache model in mode {found.cache.name}, which was "
                f"{before.cache.name} before: take the fixture noncoherent, which turns it off"
            )
        if found.grants > before.grants:
            access.reclaim()
            if (more := access.others - before.grants) > 0:
                raise CheckFailed(
                    f"the test leaves {more} grants in force that it made by hand, so that later "
                    "tests may do DMA there: withdraw them, or take the fixture guarded"
                )

    def conclude(self, *, failed: bool) -> None:
        """At a test's end, record the memory layout if it failed or a refusal was not announced.

        It also records such a refusal, and the number of the newest request: the device's
        trace must have them.
        """
        if self._platform is None:
            return
        self.say("requests", self.sequence())
        if unannounced := self.expectations.unannounced():
            self.say("unannounced", True)
        if not (failed or unannounced):
            return
        near = self.expectations.refused()
        if rows := provenance.table(MEMORY_MAX, near):
            self.say("memory", rows)

    def begin(self, *, protected: bool = True) -> None:
        """Bring the platform into the state that each test begins in; open it the first time."""
        if self._platform is None and self._missing is None:
            self._open()
        if self._platform is None:
            return
        dma_platform.access_control = self._access
        unit = self._platform.protection
        if unit.enabled is not protected:
            unit.enabled = protected

    def close(self) -> None:
        """Close everything; `begin` opens it again.

        The unit stays on: a DMA after the last test is refused like one before it.
        """
        if self._platform is not None:
            dma_platform.access_control = None
            refusals.use(None)
            dma_platform.dma_evidence = None
            provenance.clock = provenance.no_clock
            self._platform.close()
        if self._driver is not None:
            self._driver.close()
        self._platform = self._access = self._driver = self._missing = None

    def _open(self) -> None:
        try:
            self._platform = PlatformDevice()
        except PciError as error:
            self._missing = error
            return
        self._platform.read_memory_types()
        self._access = PlatformAccess(self._platform.protection)
        provenance.clock = self.sequence
        dma_platform.dma_evidence = PlatformEvidence(self._platform.protection)
