# SPDX-License-Identifier: Apache-2.0
"""The fields of a named fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from dma_rehearsal.device.layout.run_status import Status

BEHIND_IOMMU = {"iommu": "intel"}
"""The options of a run whose exerciser is behind an IOMMU."""


class Component(Enum):
    """The part of the rig that a fault breaks."""

    EXERCISER = "exerciser"
    REQUEST_LOG = "request log"
    WITNESS = "witness"
    PROTECTION_UNIT = "protection unit"
    CACHE_MODEL = "cache model"
    MAILBOX = "mailbox"
    BOARD = "board"
    DRIVER = "kernel module"
    KERNEL = "guest kernel"
    ALLOCATOR = "allocator"
    MAPPER = "mapper"
    MSR_READER = "MSR reader"
    REHEARSAL = "driver fixture"
    CHANNEL = "report channel"
    TEST_SESSION = "test session"

    @property
    def in_device(self) -> bool:
        """Whether it runs in the device process, where ``device.faults`` has its faults."""
        return self in _IN_DEVICE

    @property
    def in_guest(self) -> bool:
        """Whether it is the guest's own Python, for which ``guest.faults`` has its faults."""
        return self not in _IN_DEVICE and self not in (Component.DRIVER, Component.KERNEL)


_IN_DEVICE = (
    *(Component.EXERCISER, Component.REQUEST_LOG, Component.WITNESS),
    *(Component.PROTECTION_UNIT, Component.CACHE_MODEL, Component.BOARD),
    Component.MAILBOX,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what it breaks, and how a run must notice it.

    The run ends with ``status``. Its message contains ``message``, and gives ``verdict`` for each
    of ``promises``, which are rows of the verdict's table. ``tests`` are the files of the guest's
    suite that check these promises.

    ``parameter`` goes onto the kernel's command line. A run with the fault needs ``options``, by
    name; ``deadlines`` (seconds by phase) keep one that hangs short. A fault ``at_boot`` is in
    something that QEMU reads only once. A fault ``at_collection`` ends the verdict before the
    first test, and the VM goes on.
    """

    name: str
    component: Component
    description: str
    promises: tuple[str, ...] = ()
    status: Status = Status.FAILED
    verdict: str = "broken"
    message: str = ""
    tests: tuple[str, ...] = ()
    parameter: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    deadlines: Mapping[str, float] = field(default_factory=dict)
    at_boot: bool = False
    at_collection: bool = False

    @property
    def switchable(self) -> bool:
        """Whether a running VM with its options can set and clear it between two tests.

        A fault that ends the verdict ends the VM as well.
        """
        return (
            (self.component.in_device or self.component is Component.DRIVER)
            and self.status is Status.FAILED
            and not self.at_boot
        )

    @property
    def of_a_session(self) -> bool:
        """Whether it lasts for one session of the guest's agent, in a VM with its options.

        A fault that ends the verdict after the collection ends the VM as well.
        """
        survives = self.status is Status.FAILED or self.at_collection
        return self.component.in_guest and survives
