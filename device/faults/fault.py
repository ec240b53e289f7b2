# SPDX-License-Identifier: Apache-2.0
"""What a named fault is."""

from __future__ import annotations

from dataclasses import dataclass

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.platform.platform import Platform


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault's description and the classes that stand in for the sound ones.

    Neither has an ``__init__`` of its own.
    """

    description: str
    exerciser: type[Exerciser] = Exerciser
    platform: type[Platform] = Platform
