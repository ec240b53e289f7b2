# SPDX-License-Identifier: Apache-2.0
"""Every check that a request meets before a byte of it moves, in the one order.

1. The function: bus mastering, the end of the address space, its own BARs (`function_refusal`).
2. Behind an IOMMU of the client: the client's map, which holds what that IOMMU lets through.
3. The platform's interconnect, such as the protection unit.
4. Memory: the client's map, then a peer's BAR.
5. The platform's caches.

The first check that refuses gives the reason. Behind an IOMMU, its map comes before the
interconnect, so that a request that the map refuses raises a fault in the guest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dma_rehearsal.device.endpoints.dma import (
    Attributes,
    DmaRefused,
    OnlyByMessage,
    Ranges,
    ScatterList,
    bare,
    ranges_of,
)
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.interconnect import Link, Request
from dma_rehearsal.device.endpoints.memory_access import (
    CachedAccess,
    DirectAccess,
    MemoryAccess,
)
from dma_rehearsal.device.endpoints.request_log import RequestLog
from dma_rehearsal.device.endpoints.routing import Fabric, Router
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.model import Client, FileRange, MappedRange

_ADDRESS_END = 1 << 64


class AccessCheck:
    """Judges the requests of one function, and finds where their bytes are.

    The caller holds the interconnect's lock from the check until the last byte has moved. So what
    is admitted moves by the state that admitted it.
    """

    def __init__(self, function: Function, link: Link, log: RequestLog, fabric: Fabric) -> None:
        self._function, self._link, self._log = function, link, log
        self._router = Router(function, fabric, link)

    @property
    def fabric(self) -> Fabric:
        """The functions of the process, which reach each other by their BARs."""
        return self._router.fabric

    @fabric.setter
    def fabric(self, fabric: Fabric) -> None:
        self._router.fabric = fabric

    def function_refusal(self, address: int, length: int) -> DmaReason:
        """Return why the function itself sends no request to these bytes; NONE where it may.

        The only place that looks at bus mastering and at the function's own BARs.
        """
        config = self._function.config
        if not config.bus_master:
            return DmaReason.BUS_MASTER_OFF
        if address + length > _ADDRESS_END:
            return DmaReason.ADDRESS_WRAP
        if config.overlaps_bar(address, length):
            # The write would come back as a register access in the middle of this DMA.
            return DmaReason.OWN_BAR
        if self._link.leaving:
            return DmaReason.CLIENT_GONE
        return DmaReason.NONE

    def admit_all(
        self, ranges: Ranges, attributes: Attributes, *, write: bool, later: bool
    ) -> list[MemoryAccess]:
        """Return an access to each range. DmaRefused: one is not admitted, and recorded.

        ``later``: raise OnlyByMessage, which is not recorded, when all are admitted and only the
        client reaches some; otherwise that is a refusal.
        """
        found: list[MemoryAccess] = []
        missing: OnlyByMessage | None = None
        for address, length in ranges:
            try:
                found.append(self.admit(address, length, attributes, write=write))
            except DmaRefused as refusal:
                if not (later and isinstance(refusal, OnlyByMessage)):
                    self._log.record_refused(address, length, attributes, refusal, write=write)
                    raise
                missing = missing or refusal
        if missing is not None:
            try:
                raise bare(missing)
            finally:
                # It has this frame, which has it and the accesses: memory of a client that may go.
                del missing
        return found

    def admit(
        self,
        address: int,
        length: int,
        attributes: Attributes,
        *,
        write: bool,
        by_message: bool = False,
    ) -> MemoryAccess:
        """Return an access to a request's bytes. DmaRefused, not recorded: it is not admitted.

        OnlyByMessage: it is admitted, and only the client reaches it, or ``by_message`` is set.
        """
        client = self._client_for(address, length)
        if self._link.behind_iommu and not by_message:
            with contextlib.suppress(OnlyByMessage):
                self._router.views(client, address, length, write=write)
        self._cross(address, length, attributes, write=write)
        caches = self._link.interconnect.caches
        try:
            if by_message:
                raise OnlyByMessage(DmaReason.UNMAPPED, address)
            if caches is None:
                return DirectAccess(self._router.views(client, address, length, write=write))
            file_ranges = self._router.file_ranges(client, address, length, write=write)
        except OnlyByMessage as missing:
            self._pass_caches(None, attributes, missing.address)
            raise
        if isinstance(file_ranges, memoryview):
            return DirectAccess([file_ranges])
        self._pass_caches(file_ranges, attributes)
        return CachedAccess(caches, file_ranges, self._unsnooped(attributes))

    def reachable(self, address: int, length: int, *, write: bool) -> bool:
        """Return whether memory is there for a request, perhaps by a message.

        Nothing is sent, and the interconnect is not asked.
        """
        try:
            client = self._client_for(address, length)
            self._router.views(client, address, length, write=write)
        except OnlyByMessage:
            return True
        except DmaRefused:
            return False
        return True

    def _client_for(self, address: int, length: int) -> Client:
        """Return the client, when nothing in the function refuses. DmaRefused."""
        if reason := self.function_refusal(address, length):
            raise DmaRefused(reason, address)
        client = self._link.client
        if client is None:
            raise DmaRefused(DmaReason.UNMAPPED, address)
        return client

    def _cross(self, address: int, length: int, attributes: Attributes, *, write: bool) -> None:
        """Ask the interconnect about the whole request. DmaRefused when it does not pass."""
        interconnect = self._link.interconnect
        if not interconnect.checked:
            return
        sent = self._log.sent(attributes)
        requester_id = sent.requester_id
        if requester_id is None:
            requester_id = self._function.requester_id
        request = Request(self._function.name, write, address, length, sent, requester_id)
        refusal = interconnect.refusal(request)
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address, refusal.nearest)

    def _pass_caches(
        self, file_ranges: Sequence[FileRange] | None, attributes: Attributes, at: int | None = None
    ) -> None:
        """Ask the caches about a request. DmaRefused, ``at`` its byte where they name none.

        ``file_ranges`` is None for a request by message, of which the caches know no line.
        """
        caches = self._link.interconnect.caches
        if caches is None:
            return
        refusal = caches.check(file_ranges, no_snoop=self._unsnooped(attributes))
        if refusal is not None:
            raise DmaRefused(refusal.reason, refusal.address if at is None else at) from None

    def one_mapping(
        self, segments: ScatterList, attributes: Attributes, *, write: bool, data: bool
    ) -> MappedRange | None:
        """Return the mapping that holds all segments; None: `admit_all` looks at each segment.

        ``data``: the segments have their bytes, and not their lengths. In such a mapping only the
        interconnect can refuse, and it is asked: DmaRefused, recorded. Lists of thousands are
        mostly in one mapping, where a range costs two comparisons. A look-up of each range costs
        twenty times that.
        """
        client, interconnect = self._link.client, self._link.interconnect
        if client is None or interconnect.caches or not segments:
            return None
        mapped = client.mapped_range(segments[0][0], write=write)
        if mapped is None:
            return None
        low, high, _, _ = mapped
        if self.function_refusal(low, high - low):
            return None
        if data:
            for address, content in segments:
                if address < low or address + len(content) > high:
                    return None
        else:
            for address, length in segments:
                if address < low or address + length > high:
                    return None
        if interconnect.checked:
            for address, length in ranges_of(segments, write=data):
                try:
                    self._cross(address, length, attributes, write=write)
                except DmaRefused as refusal:
                    self._log.record_refused(address, length, attributes, refusal, write=write)
                    raise
        return mapped

    def _unsnooped(self, attributes: Attributes) -> bool:
        """Return whether no cache follows the access.

        None does on such a board, for such a function, or where the request asks for that.
        """
        if not (self._link.interconnect.snoops and self._function.coherent):
            return True
        return self._log.sent(attributes).no_snoop
