# SPDX-License-Identifier: Apache-2.0
"""A function behind an IOMMU that is the client's: what the map refuses goes to the client.

The DMA map holds what the guest's IOMMU lets through, so a refused request is known to be one
without asking. But the IOMMU has not seen it, and raises no fault in the guest. So the page at
fault is asked for by a message, with the real data: the client's IOMMU then refuses it and tells
the guest. (The guest may map the page in between; what moved then is recorded.)
"""

from __future__ import annotations

from dma_rehearsal.device.endpoints.dma import Segments
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.vfio_user.model import Ask


def page_at_fault(segments: Segments, address: int, *, write: bool) -> Ask | None:
    """Return what a request has of the page that holds ``address``, from that byte on.

    None where the request has no such byte.
    """
    for start, what in segments:
        at, length = address - start, len(what) if write else what
        if 0 <= at < length:
            count = min(PAGE - address % PAGE, length - at)
            return Ask(address, count, what[at : at + count] if write else None)
    return None
