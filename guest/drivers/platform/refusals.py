# SPDX-License-Identifier: Apache-2.0
"""Refused DMA that its driver expects: who announces it, so that nobody takes it for a mistake.

A rig that watches every refusal gives `use` what announces them there.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.pci_sysfs import PciError
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest


class Announce(Protocol):
    """Announces refusals for as long as its context lasts."""

    def __call__(
        self, *reasons: DmaReason, count: int | None = None
    ) -> AbstractContextManager[list[RefusedRequest]]:
        """See `expects`."""


_announce: Announce | None = None


def use(announce: Announce | None) -> Announce | None:
    """Have ``announce`` announce from now on, or nobody; return the one before."""
    global _announce
    before, _announce = _announce, announce
    return before


def expects(
    *reasons: DmaReason, count: int | None = None
) -> AbstractContextManager[list[RefusedRequest]]:
    """Expect that DMA is refused within the ``with``, for one of these reasons.

    At least one request has to be; with ``count`` just so many. What the device does must be over
    by the end of the ``with``: read a register of it, for writes are posted. The list has the
    requests then; an error says what was refused instead.
    """
    if _announce is None:
        raise PciError("nobody watches refused DMA here: expects() is for a test of the rig")
    return _announce(*reasons, count=count)
