# SPDX-License-Identifier: Apache-2.0
"""The implementation of a fault of the device process."""

from __future__ import annotations

from dataclasses import dataclass

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.platform.platform import Platform


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """The classes that take the place of the sound ones while a fault is set.

    Neither has an ``__init__`` of its own.
    """

    exerciser: type[Exerciser] = Exerciser
    platform: type[Platform] = Platform
