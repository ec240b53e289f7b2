"""A function as a requester (PCI Express Base 5.0): what its requests meet before memory does.

That is the function's own rules, then the platform's interconnect and caches. Each request is
recorded, as it left the function or why it did not, and is one event of the trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from device.layout import DmaDirection, DmaReason
from device.trace import Trace
from device.vfio_user.errors import MemoryFault, NoDescriptor
from device.vfio_user.model import Client, Place

from .history import History
from .interconnect import Interconnect, Request
from .reach import Reach
from .referral import Referral
from .refusals import RefusedRequest
from .requests import Attributes, DmaRefused, OnlyByMessage, Transaction
from .targets import Cached, Views

if TYPE_CHECKING:
    from .base import Endpoint

HISTORY = 256  # transactions kept
RANGES_MAX = 16384  # of one event; a list of more says how many it left out
# A request that these end was not refused: nobody asks for it any more.
_ENDS = (DmaReason.RESET, DmaReason.CLIENT_GONE)

Ranges = Sequence[tuple[int, int]]


class Requester:
    """Judges the requests of one function, and finds where their bytes are.

    ``interconnect`` is the platform's where one stands in the process, else this function's own.
    ``trace`` gets an event for each request; the function's, unless another one is set.
    ``referral`` tells the client of what its map refuses, where the function is behind an IOMMU of
    the client's: there the map judges before the interconnect does, so that a request that the
    IOMMU refuses raises its fault.
    """

    def __init__(self, function: Endpoint) -> None:
        self._function = function
        self._reach = Reach(function)
        self.interconnect = Interconnect()
        self.client: Client | None = None
        self.transactions = History(HISTORY)
        self.trace: Trace = function.trace
        self.referral: Referral | None = None

    def _gather(
        self,
        ranges: Ranges,
        attributes: Attributes,
        *,
        write: bool,
        later: bool = False,
    ) -> list[Views | Cached]:
        """Return where each range's bytes are, and record the requests.

        Refused, record the one at fault. ``later``: OnlyByMessage, when the client reaches all, is
        no refusal yet and not recorded.
        """
        found: list[Views | Cached] = []
        missing: OnlyByMessage | None = None
        for address, length in ranges:
            try:
                client = self._admitted(address, length, write=write)
                self._cross(address, length, attributes, write=write)
                found.append(self._target(client, address, length, attributes, write=write))
            except DmaRefused as refusal:
                if not (later and isinstance(refusal, OnlyByMessage)):
                    self._record(write, address, length, attributes, refusal)
                    raise
                missing = missing or refusal
        if missing is not None:
            raise missing
        self.transactions.add(write, ranges, self._sent(attributes), DmaReason.NONE)
        return found

    def _admitted(self, address: int, length: int, *, write: bool) -> Client:
        """Return the client, when nothing before the interconnect refuses. DmaRefused."""
        client = self._reach.admitted(self.client, address, length)
        if self.referral is not None:
            with contextlib.suppress(OnlyByMessage):
                self._reach.views(client, address, length, write=write)
        return client

    def _target(
        self, client: Client, address: int, length: int, attributes: Attributes, *, write: bool
    ) -> Views | Cached:
        if self.interconnect.caches is None:
            return Views(self._reach.views(client, address, length, write=write))
        places = self._reach.places(client, address, length, write=write)
        if isinstance(places, memoryview):
            return Views([places])
        return self._through(places, attributes)

    def _through(self, places: Sequence[Place], attributes: Attributes) -> Views | Cached:
        """Return the way through the caches, where there are any. DmaRefused."""
        caches = self.interconnect.caches
        if caches is None:
            return Views([each.memory[each.offset : each.offset + each.length] for each in places])
        no_snoop = self._unsnooped(attributes)
        refusal = caches.check(places, no_snoop=no_snoop)
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address)
        return Cached(caches, places, no_snoop)

    def _check_message(
        self, address: int, length: int, attributes: Attributes, *, write: bool, chosen: bool
    ) -> None:
        """Let the caches refuse what goes by message: they know none of its lines. DmaRefused.

        ``chosen``: by message though the memory may be mapped.
        """
        caches, client = self.interconnect.caches, self.client
        if caches is None or client is None:
            return
        at = address
        if not chosen:
            try:
                client.places(address, length, write=write)
            except NoDescriptor as fault:
                at = fault.address
            except MemoryFault:
                return  # the queue finds out, and says so
            else:
                return
        refusal = caches.check(None, no_snoop=self._unsnooped(attributes))
        if refusal is not None:
            raise DmaRefused(refusal.reason, at)

    def _pass(self, ranges: Ranges, attributes: Attributes, *, write: bool) -> None:
        """Record requests that memory can serve. DmaRefused, where the interconnect refuses."""
        if self.interconnect.checked:
            self._cross_all(ranges, attributes, write=write)
        self.transactions.add(write, ranges, self._sent(attributes), DmaReason.NONE)
        self._moved(ranges, write=write)

    def _cross_all(self, ranges: Ranges, attributes: Attributes, *, write: bool) -> None:
        for address, length in ranges:
            try:
                self._cross(address, length, attributes, write=write)
            except DmaRefused as refusal:
                self._record(write, address, length, attributes, refusal)
                raise

    def _cross(self, address: int, length: int, attributes: Attributes, *, write: bool) -> None:
        """Let the interconnect judge the whole request. DmaRefused when it does not pass."""
        sent = self._sent(attributes)
        request = Request(self._function.name, write, address, length, sent)
        refusal = self.interconnect.refusal(request)
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address, refusal.nearest)

    def _record(
        self,
        write: bool,
        address: int,
        length: int,
        attributes: Attributes,
        refusal: DmaRefused,
        *,
        moved: int = 0,
    ) -> None:
        """Record a request that is refused, and tell of it."""
        sent = self._sent(attributes)
        self.transactions.add(write, ((address, length),), sent, refusal.reason)
        self._refused(((address, length),), refusal, write=write, moved=moved)
        self._function.on_refused(Transaction(write, address, length, sent, refusal.reason))

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
        self._refused(ranges, DmaRefused(reason, byte), write=write, moved=moved)

    def _moved(self, ranges: Ranges, *, write: bool) -> None:
        """Count a request that memory served, and tell of it. Under the interconnect's lock.

        Without a trace ``ranges`` need not be all.
        """
        self.interconnect.sequence += 1
        if self.trace.on:
            self._tell(ranges, DmaReason.NONE, write=write, moved=sum(each[1] for each in ranges))

    def _refused(self, ranges: Ranges, refusal: DmaRefused, *, write: bool, moved: int) -> None:
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

    def _unsnooped(self, attributes: Attributes) -> bool:
        """Return whether no cache follows the access: asked for, or never for this function."""
        return not self._function.coherent or self._sent(attributes).no_snoop


def _byte_at(ranges: Ranges, moved: int) -> int:
    """Return the address of the byte after ``moved`` bytes of ranges, or of the last one's end."""
    address = 0
    for start, length in ranges:
        address = start + min(moved, length)
        if moved < length:
            break
        moved -= length
    return address
