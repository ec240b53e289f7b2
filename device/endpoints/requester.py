"""A function as a requester (PCI Express Base 5.0): what its requests meet before memory does.

That is the function's own rules, then the platform's interconnect and caches. Each request is
recorded, as it left the function or why it did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from device.layout import DmaReason
from device.vfio_user.errors import MemoryFault, NoDescriptor
from device.vfio_user.model import Client, Place

from .history import History
from .interconnect import Interconnect, Request
from .reach import Reach
from .requests import Attributes, DmaRefused, OnlyByMessage, Transaction
from .targets import Cached, Views

if TYPE_CHECKING:
    from .base import Endpoint

HISTORY = 256  # transactions kept


class Requester:
    """Judges the requests of one function, and finds where their bytes are.

    ``interconnect`` is the platform's where one stands in the process, else this function's own.
    """

    def __init__(self, function: Endpoint) -> None:
        self._function = function
        self._reach = Reach(function)
        self.interconnect = Interconnect()
        self.client: Client | None = None
        self.transactions = History(HISTORY)

    def _gather(
        self,
        ranges: Sequence[tuple[int, int]],
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
                client = self._reach.admitted(self.client, address, length)
                self._cross(address, length, attributes, write=write)
                found.append(self._target(client, address, length, attributes, write=write))
            except DmaRefused as refusal:
                if not (later and isinstance(refusal, OnlyByMessage)):
                    self._record(write, address, length, attributes, refusal.reason)
                    raise
                missing = missing or refusal
        if missing is not None:
            raise missing
        for address, length in ranges:
            self._record(write, address, length, attributes, DmaReason.NONE)
        return found

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

    def _pass(
        self, ranges: Sequence[tuple[int, int]], attributes: Attributes, *, write: bool
    ) -> None:
        """Record requests that memory can serve. DmaRefused, where the interconnect refuses."""
        if self.interconnect.checked:
            self._cross_all(ranges, attributes, write=write)
        self.transactions.add(write, ranges, self._sent(attributes), DmaReason.NONE)

    def _cross_all(
        self, ranges: Sequence[tuple[int, int]], attributes: Attributes, *, write: bool
    ) -> None:
        for address, length in ranges:
            try:
                self._cross(address, length, attributes, write=write)
            except DmaRefused as refusal:
                self._record(write, address, length, attributes, refusal.reason)
                raise

    def _cross(self, address: int, length: int, attributes: Attributes, *, write: bool) -> None:
        """Let the interconnect judge the whole request. DmaRefused when it does not pass."""
        sent = self._sent(attributes)
        request = Request(self._function.name, write, address, length, sent)
        refusal = self.interconnect.refusal(request)
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address)

    def _record(
        self, write: bool, address: int, length: int, attributes: Attributes, reason: DmaReason
    ) -> None:
        sent = self._sent(attributes)
        self.transactions.add(write, ((address, length),), sent, reason)
        if reason:
            self._function.on_refused(Transaction(write, address, length, sent, reason))

    def _sent(self, attributes: Attributes) -> Attributes:
        """Return the attributes as they leave the function."""
        if not attributes.no_snoop or self._function.no_snoop_enabled:
            return attributes
        return replace(attributes, no_snoop=False)

    def _unsnooped(self, attributes: Attributes) -> bool:
        """Return whether no cache follows the access: asked for, or never for this function."""
        return not self._function.coherent or self._sent(attributes).no_snoop
