# SPDX-License-Identifier: Apache-2.0
"""The log of a function's requests (PCI Express Base 5.0: the function is a requester).

Each request is recorded, as it left the function or with the reason why it did not, and is one
event of the trace.
"""

from __future__ import annotations

from dataclasses import replace

from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused, Ranges, Transaction
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.interconnect import Link
from dma_rehearsal.device.endpoints.request_history import History, RefusedRequest
from dma_rehearsal.device.layout import DmaDirection, DmaReason, function_address

HISTORY = 256  # transactions kept
RANGES_MAX = 16384  # of one event; a list of more says how many it left out
# A request that these end was not refused: its requester is gone.
_ENDS = (DmaReason.RESET, DmaReason.CLIENT_GONE)


class RequestLog:
    """Records the requests of one function.

    ``trace`` gets an event for each request; the function's, unless another one is set.
    """

    def __init__(self, function: Function, link: Link) -> None:
        self._function, self._link = function, link
        self.transactions = History(HISTORY)
        self.trace = function.trace

    def refuse(
        self,
        reason: DmaReason,
        ranges: Ranges,
        *,
        write: bool,
        moved: int = 0,
        byte: int | None = None,
    ) -> None:
        """Record that the device itself refused a request, or cut it short; see ``Bus.refuse``."""
        if not reason:
            raise ValueError("a request that is refused has a reason other than NONE")
        if byte is None:
            byte = _byte_at(ranges, moved)
        self._count_refused(ranges, DmaRefused(reason, byte), write=write, moved=moved)

    def record(self, ranges: Ranges, attributes: Attributes, *, write: bool) -> None:
        """Record a request whose bytes move. Under the interconnect's lock."""
        interconnect = self._link.interconnect
        self.transactions.add(write, ranges, self.sent(attributes), DmaReason.NONE)
        if interconnect.checked:
            interconnect.moved(ranges, write=write)
        interconnect.sequence += 1
        if self.trace.on:
            moved = sum(length for _, length in ranges)
            self._write_event(ranges, DmaReason.NONE, write=write, moved=moved)

    def record_refused(
        self,
        address: int,
        length: int,
        attributes: Attributes,
        refusal: DmaRefused,
        *,
        write: bool,
        moved: int = 0,
    ) -> None:
        """Record a request that is refused, after ``moved`` bytes."""
        sent, ranges = self.sent(attributes), ((address, length),)
        interconnect = self._link.interconnect
        with interconnect.lock:
            self.transactions.add(write, ranges, sent, refusal.reason)
            if moved and interconnect.checked:
                interconnect.moved(((address, moved),), write=write)
            self._count_refused(
                ranges, refusal, write=write, moved=moved, requester_id=sent.requester_id
            )
        self._function.on_refused(Transaction(write, address, length, sent, refusal.reason))

    def sent(self, attributes: Attributes) -> Attributes:
        """Return the attributes as they leave the function."""
        if not attributes.no_snoop or self._function.no_snoop_enabled:
            return attributes
        return replace(attributes, no_snoop=False)

    def _count_refused(
        self,
        ranges: Ranges,
        refusal: DmaRefused,
        *,
        write: bool,
        moved: int,
        requester_id: int | None = None,
    ) -> None:
        """Count a request that was refused, keep it and write its event."""
        if refusal.reason in _ENDS:
            return
        interconnect = self._link.interconnect
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
                if requester_id is None:
                    requester_id = self._function.requester_id
                if requester_id is not None:
                    facts["function"] = function_address(requester_id)
                if refusal.nearest is not None:
                    facts["nearest"] = refusal.nearest
                self._write_event(ranges, refusal.reason, write=write, moved=moved, **facts)

    def _write_event(
        self, ranges: Ranges, reason: DmaReason, *, write: bool, moved: int, **facts: object
    ) -> None:
        if not self._function.traces_request(reason):
            return
        if len(ranges) > RANGES_MAX:
            facts["more"] = len(ranges) - RANGES_MAX
        self.trace.event(
            self._function.name,
            "request",
            sequence=self._link.interconnect.sequence,
            write=write,
            ranges=[(hex(address), length) for address, length in ranges[:RANGES_MAX]],
            moved=moved,
            reason=reason.name,
            **facts,
        )


def _byte_at(ranges: Ranges, moved: int) -> int:
    """Return the address of the byte after ``moved`` bytes of ranges, or of the last one's end."""
    address = 0
    for start, length in ranges:
        address = start + min(moved, length)
        if moved < length:
            break
        moved -= length
    return address
