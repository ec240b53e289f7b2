# SPDX-License-Identifier: Apache-2.0
"""The board under test with any device on it: the platform, the driver, the witness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dma_rehearsal.device.layout import WitnessRun, WitnessStatus
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.device_limits import UNLIMITED, Limits
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, IOOptions
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.buffers import make_buffer
from dma_rehearsal.guest.testkit.claims import EFFECTIVE as EFFECTIVE

__tracebackhide__ = is_verdict


NO_EXERCISER: Final = (
    "{} the built-in exerciser, and this run has a device of your own in its place. Use your own "
    "driver for it; of bench, platform, driver, limits, make, witness and witness_range work "
    "with any device"
)


class HasAddress(Protocol):
    """Memory that this process has mapped."""

    @property
    def address(self) -> int:
        """Its virtual address."""

    def getLength(self) -> int:
        """Return its bytes."""


def described(runs: Sequence[WitnessRun]) -> str:
    """Return the witness's runs for a message."""
    return "; ".join(
        f"{run.length} bytes at {run.physical:#x} in {run.page_size}-byte pages: "
        f"{run.effective.name} (PAT {run.pat_index} = {run.pat.name}, MTRR {run.mtrr.name})"
        for run in runs
    )


@dataclass(slots=True)
class Board:
    """The parts that a test has with any device. ``limits`` are the known limits of its DMA."""

    platform: PlatformDevice
    driver: Driver
    limits: Limits = UNLIMITED

    def make(
        self, options: IOOptions | int, capacity: int, alignment: int = 1
    ) -> IOBufferMemoryDescriptor:
        """Make a buffer that the device reaches; the caller releases it."""
        return make_buffer(self.limits, options, capacity, alignment)

    def witness(self, memory: HasAddress) -> list[WitnessRun]:
        """Return the runs that the witness finds under the whole mapping of the memory."""
        return self.witness_range(memory.address, memory.getLength())

    def witness_range(self, address: int, length: int) -> list[WitnessRun]:
        """Return the runs that the witness finds for a virtual range of this process."""
        root = self.driver.query(address)
        report = self.platform.witness(root.root, address, length, root.levels)
        if report.status is not WitnessStatus.OK:
            raise CheckFailed(
                f"the witness's walk of {length} bytes at {address:#x} ended with "
                f"{report.status.name} at {report.fault_va or 0:#x}"
            )
        first = address & -PAGE
        pages = (address + length - first + PAGE - 1) // PAGE
        covered = sum(run.length for run in report.runs)
        if report.pages != pages or covered != pages * PAGE:
            raise CheckFailed(f"the witness saw {report.pages} pages of {pages}")
        return list(report.runs)


class OwnDeviceBoard(Board):
    """The board of a user's own device: methods of the exerciser raise `CheckFailed`."""

    __slots__ = ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CheckFailed(NO_EXERCISER.format(f"bench.{name} is a part of"))
