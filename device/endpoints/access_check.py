# SPDX-License-Identifier: Apache-2.0
"""What a request meets before a byte of it moves: every check, in the one order.

1. The function: bus mastering, the end of the address space, its own BARs.
2. Where the function is behind an IOMMU of its client's: that, which is the client's map.
3. The platform's interconnect, such as the protection unit.
4. Memory: the client's map, then a peer's BAR.
5. The platform's caches.

The first that refuses is the reason. Behind an IOMMU its map comes before the interconnect, so that
what it refuses raises its fault in the guest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dma_rehearsal.device.endpoints.dma import (
    Attributes,
    DmaRefused,
    OnlyByMessage,
    Ranges,
    Segments,
    bare,
    ranges_of,
)
from dma_rehearsal.device.endpoints.interconnect import Request
from dma_rehearsal.device.endpoints.memory_access import Cached, Target, Views
from dma_rehearsal.device.endpoints.request_log import Requester
from dma_rehearsal.device.endpoints.routing import Reach
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.model import Client, Place, Window

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint

_ADDRESS_END = 1 << 64


class Admission(Requester):
    """Judges the requests of one function, and finds where their bytes are.

    Everything here is done under the interconnect's lock, which whoever moves the bytes holds until
    the last one has moved: what is admitted moves by the state that admitted it.

    ``behind_iommu``: the client's map is what its IOMMU lets through.
    """

    def __init__(self, function: Endpoint) -> None:
        super().__init__(function)
        self._reach = Reach(function)
        self._leaving = False
        self.behind_iommu = False

    def _admit_all(
        self, ranges: Ranges, attributes: Attributes, *, write: bool, later: bool
    ) -> list[Target]:
        """Return where each range's bytes are. DmaRefused: one is not admitted, and recorded.

        ``later``: OnlyByMessage, which is not recorded, when all are and the client alone reaches
        some; otherwise that is a refusal.
        """
        found: list[Target] = []
        missing: OnlyByMessage | None = None
        for address, length in ranges:
            try:
                found.append(self._admit(address, length, attributes, write=write))
            except DmaRefused as refusal:
                if not (later and isinstance(refusal, OnlyByMessage)):
                    self._record_refused(address, length, attributes, refusal, write=write)
                    raise
                missing = missing or refusal
        if missing is not None:
            raise bare(missing)
        return found

    def _admit(
        self,
        address: int,
        length: int,
        attributes: Attributes,
        *,
        write: bool,
        by_message: bool = False,
    ) -> Target:
        """Return where a request's bytes are. DmaRefused, not recorded, when it is not admitted.

        OnlyByMessage: it is, and the client alone reaches it, or is to be asked (``by_message``).
        """
        client = self._leaves(address, length)
        if self.behind_iommu and not by_message:
            with contextlib.suppress(OnlyByMessage):
                self._reach.views(client, address, length, write=write)
        self._cross(address, length, attributes, write=write)
        caches = self.interconnect.caches
        try:
            if by_message:
                raise OnlyByMessage(DmaReason.UNMAPPED, address)
            if caches is None:
                return Views(self._reach.views(client, address, length, write=write))
            places = self._reach.places(client, address, length, write=write)
        except OnlyByMessage as missing:
            self._pass_caches(None, attributes, missing.address)
            raise
        if isinstance(places, memoryview):
            return Views([places])
        self._pass_caches(places, attributes)
        return Cached(caches, places, self._unsnooped(attributes))

    def _leaves(self, address: int, length: int) -> Client:
        """Return the client, when nothing in the function refuses. DmaRefused."""
        function, client = self._function, self.client
        if not function.config.bus_master:
            raise DmaRefused(DmaReason.BUS_MASTER_OFF, address)
        if address + length > _ADDRESS_END:
            raise DmaRefused(DmaReason.ADDRESS_WRAP, address)
        if function.config.overlaps_bar(address, length):
            # The write would come back as a register access in the middle of this DMA.
            raise DmaRefused(DmaReason.OWN_BAR, address)
        if self._leaving:
            raise DmaRefused(DmaReason.CLIENT_GONE, address)
        if client is None:
            raise DmaRefused(DmaReason.UNMAPPED, address)
        return client

    def _cross(self, address: int, length: int, attributes: Attributes, *, write: bool) -> None:
        """Let the interconnect judge the whole request. DmaRefused when it does not pass."""
        if not self.interconnect.checked:
            return
        sent = self._sent(attributes)
        request = Request(self._function.name, write, address, length, sent)
        refusal = self.interconnect.refusal(request)
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address, refusal.nearest)

    def _pass_caches(
        self, places: Sequence[Place] | None, attributes: Attributes, at: int | None = None
    ) -> None:
        """Let the caches judge a request. DmaRefused, ``at`` its byte where they know none.

        None for places: what goes by message, of which they know no line.
        """
        caches = self.interconnect.caches
        if caches is None:
            return
        refusal = caches.check(places, no_snoop=self._unsnooped(attributes))
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address if at is None else at) from None

    def _window(self, segments: Segments, attributes: Attributes, *, write: bool) -> Window | None:
        """Return the one mapping in which all segments lie; None: `_admit_all` looks at each.

        In it only the interconnect can refuse, and is asked: DmaRefused, recorded. Lists of
        thousands are mostly in one mapping, where a range costs two comparisons; to look each up
        costs twenty times that.
        """
        config, client, interconnect = self._function.config, self.client, self.interconnect
        if client is None or interconnect.caches or not config.bus_master or not segments:
            return None
        window = client.window(segments[0][0], write=write)
        if window is None:
            return None
        low, high, _, _ = window
        if config.overlaps_bar(low, high - low) or self._leaving:
            return None
        if write:
            for address, data in segments:
                if address < low or address + len(data) > high:
                    return None
        else:
            for address, length in segments:
                if address < low or address + length > high:
                    return None
        if interconnect.checked:
            for address, length in ranges_of(segments, write=write):
                try:
                    self._cross(address, length, attributes, write=write)
                except DmaRefused as refusal:
                    self._record_refused(address, length, attributes, refusal, write=write)
                    raise
        return window

    def _unsnooped(self, attributes: Attributes) -> bool:
        """Return whether no cache follows the access: asked for, or never for this function."""
        return not self._function.coherent or self._sent(attributes).no_snoop
