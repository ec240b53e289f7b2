# SPDX-License-Identifier: Apache-2.0
"""Refused DMA that its driver expects, announced so that nobody takes it for a mistake.

A test kit that watches every refusal registers itself with `use`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest


class Announce(Protocol):
    """Announces refusals for as long as its context lasts."""

    def __call__(
        self, *reasons: DmaReason, count: int | None = None
    ) -> AbstractContextManager[list[RefusedRequest]]:
        """See `expects`."""


_announce: Announce | None = None


def use(announce: Announce | None) -> Announce | None:
    """Announce by ``announce`` from now on, None: not at all; return the previous one."""
    global _announce
    before, _announce = _announce, announce
    return before


def expects(
    *reasons: DmaReason, count: int | None = None
) -> AbstractContextManager[list[RefusedRequest]]:
    """Expect that DMA is refused within the ``with``, for one of these reasons.

    At least one request must be refused; with ``count`` exactly that many. The device must have
    finished by the end of the ``with``: read one of its registers, because writes are posted. The
    list then has the requests; an error lists what was refused instead.
    """
    if _announce is None:
        raise PciError("nobody watches refused DMA here; expects() works in guest tests only")
    return _announce(*reasons, count=count)
