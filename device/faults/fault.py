# SPDX-License-Identifier: Apache-2.0
"""The implementation of a fault of the device process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.platform.platform import PlatformModels


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """What devices are given while a fault is set.

    ``platform`` makes the platform's models anew each time, with the state of the fault.
    ``exerciser`` takes the place of the sound class, and has no ``__init__`` of its own.
    """

    exerciser: type[Exerciser] = Exerciser
    platform: Callable[[], PlatformModels] = PlatformModels
