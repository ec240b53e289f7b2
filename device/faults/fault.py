# SPDX-License-Identifier: Apache-2.0
"""The implementation of a fault of the device process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.exerciser.behaviour import Behaviour
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.platform.platform import PlatformModels


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """The strategies that devices are given while a fault is set.

    ``exerciser`` makes the behaviour of an exerciser; None: the sound one. ``platform`` makes the
    platform's models anew each time, with the state of the fault.
    """

    exerciser: Callable[[Exerciser], Behaviour] | None = None
    platform: Callable[[], PlatformModels] = PlatformModels
