# SPDX-License-Identifier: Apache-2.0
"""What a named fault is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from dma_rehearsal.host_harness.process.errors import Status


class Place(Enum):
    """Where a fault acts."""

    DEVICE = "device"
    GUEST = "guest"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``promises`` are those that the run's message must name, with this ``verdict``.

    ``words`` must stand in the run's message, and say what is wrong; ``parameter`` goes onto the
    kernel's command line; ``deadlines`` (seconds by phase) keep a fault that hangs short. ``tests``
    are the guest tests that look at the promise: one file's name, "" for the whole suite. It needs
    a run with these ``options``, by name. One ``at_boot`` is in what QEMU reads but once; one
    ``at_collection`` takes the verdict away before a test has run, and the VM goes on.
    """

    name: str
    place: Place
    status: Status
    promises: tuple[str, ...]
    description: str
    parameter: str = ""
    words: str = ""
    deadlines: Mapping[str, float] = field(default_factory=dict)
    tests: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    at_boot: bool = False
    at_collection: bool = False
    verdict: str = "broken"

    @property
    def switchable(self) -> bool:
        """Whether it can be set and cleared in a VM that runs, if that one has its options.

        One that takes the verdict away takes the VM with it.
        """
        return (
            self.place in (Place.DEVICE, Place.DRIVER)
            and self.status is Status.FAILED
            and not self.at_boot
        )

    @property
    def of_a_session(self) -> bool:
        """Whether it comes and goes with a session of the guest's agent, in a VM with its options.

        One that takes the verdict away later than at the collection takes the VM with it.
        """
        alive = self.status is Status.FAILED or self.at_collection
        return self.place is Place.GUEST and alive and not self.parameter
