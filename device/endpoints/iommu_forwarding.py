# SPDX-License-Identifier: Apache-2.0
"""Tells the client's IOMMU of a request that its map refuses, so that the guest sees a fault.

The DMA map holds what the guest's IOMMU lets through, so a refused request is known to be one
without asking. But the IOMMU has not seen it, and raises no fault in the guest. So the page at
fault is asked for by a message, with the real data: the client's IOMMU then refuses it and tells
the guest. (The guest may map the page in between; bytes that move then are recorded.)
"""

from __future__ import annotations

from dma_rehearsal.device.endpoints.access_check import AccessCheck
from dma_rehearsal.device.endpoints.dma import (
    Asking,
    Attributes,
    DmaRefused,
    Dropped,
    NotMapped,
    ScatterList,
)
from dma_rehearsal.device.endpoints.interconnect import Link
from dma_rehearsal.device.endpoints.request_log import RequestLog
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask


class IommuForwarding:
    """Forwards the refusals of one function's requests while it is behind an IOMMU."""

    def __init__(self, link: Link, log: RequestLog, check: AccessCheck) -> None:
        self._link, self._log, self._check = link, log, check
        self.waiting = False  # for the client's answer to a refusal that was forwarded

    def ended(
        self, refusal: DmaRefused, segments: ScatterList, attributes: Attributes, *, write: bool
    ) -> DmaRefused | Asking:
        """Return a refusal that was recorded, or what forwards it to the client's IOMMU first.

        Only a request that the client's map refuses is the IOMMU's.
        """
        if self._link.behind_iommu and isinstance(refusal, NotMapped):
            page = page_at_fault(segments, refusal.address, write=write)
            if page is not None:
                return self.forward(refusal, page, attributes)
        return refusal

    def forward(self, refusal: DmaRefused, page: Ask, attributes: Attributes) -> Asking:
        """Ask for the page at fault, which the client's IOMMU refuses; return the refusal."""
        client = self._link.client
        if client is None or self._check.function_refusal(page.address, page.length):
            return refusal
        length = min(page.length, client.message_max)
        data = None if page.data is None else page.data[:length]
        self.waiting = True
        answer: bytes | MemoryFault | None = None
        try:
            answer = yield Ask(page.address, length, data)
        except Dropped as dropped:
            answer = dropped.answer
            raise
        finally:
            self.waiting = False
            if isinstance(answer, bytes):  # it was mapped in between
                with self._link.interconnect.lock:
                    self._log.record(((page.address, length),), attributes, write=data is not None)
        return refusal


def page_at_fault(segments: ScatterList, address: int, *, write: bool) -> Ask | None:
    """Return the part of a request from the byte at ``address`` to the end of its page.

    None where the request does not have that byte.
    """
    for start, what in segments:
        at, length = address - start, len(what) if write else what
        if 0 <= at < length:
            count = min(PAGE - address % PAGE, length - at)
            return Ask(address, count, what[at : at + count] if write else None)
    return None
