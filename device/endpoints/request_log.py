# SPDX-License-Identifier: Apache-2.0
"""A function as a requester (PCI Express Base 5.0): the account of its requests.

Each request is recorded, as it left the function or why it did not, and is one event of the trace.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused, Ranges, Transaction
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.refusals import RefusedRequest
from dma_rehearsal.device.endpoints.request_history import History
from dma_rehearsal.device.layout import DmaDirection, DmaReason
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.model import Client

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint

HISTORY = 256  # transactions kept
RANGES_MAX = 16384  # of one event; a list of more says how many it left out
# A request that these end was not refused: nobody asks for it any more.
_ENDS = (DmaReason.RESET, DmaReason.CLIENT_GONE)


class Requester:
    """Records the requests of one function.

    ``interconnect`` is the platform's where one stands in the process, else this function's own.
    ``trace`` gets an event for each request; the function's, unless another one is set.
    """

    def __init__(self, function: Endpoint) -> None:
        self._function = function
        self.interconnect = Interconnect()
        self.client: Client | None = None
        self.transactions = History(HISTORY)
        self.trace: Trace = function.trace

    def refuse(
        self,
        reason: DmaReason,
        ranges: Ranges,
        *,
        write: bool,
        moved: int = 0,
        byte: int | None = None,
    ) -> None:
        """Say that the device itself refused a request, or cut it short: one event of the trace.

        For what never comes to the bus: a limit of the device's own, or a DMA under way that ends
        with bus mastering. ``ranges``: (bus address, bytes) each; ``moved``: bytes that were moved
        before; ``byte``: the first at fault (default: the one after those). An end by RESET or
        CLIENT_GONE is no refusal, and told of to nobody. ValueError for NONE.
        """
        if not reason:
            raise ValueError("a request that is refused has a reason other than NONE")
        if byte is None:
            byte = _byte_at(ranges, moved)
        self._tell_refused(ranges, DmaRefused(reason, byte), write=write, moved=moved)

    def _record(self, ranges: Ranges, attributes: Attributes, *, write: bool) -> None:
        """Record a request whose bytes move, and tell of it. Under the interconnect's lock."""
        interconnect = self.interconnect
        self.transactions.add(write, ranges, self._sent(attributes), DmaReason.NONE)
        if interconnect.checked:
            interconnect.moved(ranges, write=write)
        interconnect.sequence += 1
        if self.trace.on:
            moved = sum(length for _, length in ranges)
            self._tell(ranges, DmaReason.NONE, write=write, moved=moved)

    def _record_refused(
        self,
        address: int,
        length: int,
        attributes: Attributes,
        refusal: DmaRefused,
        *,
        write: bool,
        moved: int = 0,
    ) -> None:
        """Record a request that is refused, after ``moved`` bytes, and tell of it."""
        sent, ranges = self._sent(attributes), ((address, length),)
        with self.interconnect.lock:
            self.transactions.add(write, ranges, sent, refusal.reason)
            if moved and self.interconnect.checked:
                self.interconnect.moved(((address, moved),), write=write)
            self._tell_refused(ranges, refusal, write=write, moved=moved)
        self._function.on_refused(Transaction(write, address, length, sent, refusal.reason))

    def _tell_refused(
        self, ranges: Ranges, refusal: DmaRefused, *, write: bool, moved: int
    ) -> None:
        """Count a request that was refused, keep it and tell of it."""
        if refusal.reason in _ENDS:
            return
        interconnect = self.interconnect
        with interconnect.lock:
            interconnect.sequence += 1
            interconnect.refusals.add(
                RefusedRequest(
                    interconnect.sequence,
                    refusal.reason,
                    DmaDirection(write),
                    ranges[0][0] if ranges else refusal.address,
                    sum(each[1] for each in ranges),
                    refusal.address,
                )
            )
            if self.trace.on:
                facts: dict[str, object] = {"byte": hex(refusal.address)}
                if refusal.nearest is not None:
                    facts["nearest"] = refusal.nearest
                self._tell(ranges, refusal.reason, write=write, moved=moved, **facts)

    def _tell(
        self, ranges: Ranges, reason: DmaReason, *, write: bool, moved: int, **facts: object
    ) -> None:
        if not self._function.traces_request(reason):
            return
        if len(ranges) > RANGES_MAX:
            facts["more"] = len(ranges) - RANGES_MAX
        self.trace.event(
            self._function.name,
            "request",
            sequence=self.interconnect.sequence,
            write=write,
            ranges=[(hex(address), length) for address, length in ranges[:RANGES_MAX]],
            moved=moved,
            reason=reason.name,
            **facts,
        )

    def _sent(self, attributes: Attributes) -> Attributes:
        """Return the attributes as they leave the function."""
        if not attributes.no_snoop or self._function.no_snoop_enabled:
            return attributes
        return replace(attributes, no_snoop=False)


def _byte_at(ranges: Ranges, moved: int) -> int:
    """Return the address of the byte after ``moved`` bytes of ranges, or of the last one's end."""
    address = 0
    for start, length in ranges:
        address = start + min(moved, length)
        if moved < length:
            break
        moved -= length
    return address
