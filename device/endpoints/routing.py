# SPDX-License-Identifier: Apache-2.0
"""Where a function's requests lead: to its client's memory, or to a BAR of a peer.

NotMapped or DmaRefused says why one leads nowhere; OnlyByMessage, that the client alone reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from dma_rehearsal.device.endpoints.dma import DmaRefused, NotMapped, OnlyByMessage
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import NoDescriptor, ReadOnly, Unmapped
from dma_rehearsal.device.vfio_user.model import Client, Place

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint

_Found = TypeVar("_Found")


class Reach:
    """What one function reaches."""

    def __init__(self, function: Endpoint) -> None:
        self._function = function

    def views(self, client: Client, address: int, length: int, *, write: bool) -> Sequence[View]:
        """Return views of memory, or of a peer's BAR."""
        found = self._reached(client.memory, address, length, write=write)
        return [found] if isinstance(found, memoryview) else found

    def places(
        self, client: Client, address: int, length: int, *, write: bool
    ) -> Sequence[Place] | memoryview:
        """Return the places of memory, or a view of a peer's BAR, which no cache holds."""
        return self._reached(client.places, address, length, write=write)

    def _reached(
        self,
        memory: Callable[..., Sequence[_Found]],
        address: int,
        length: int,
        *,
        write: bool,
    ) -> Sequence[_Found] | memoryview:
        try:
            return memory(address, length, write=write)
        except ReadOnly as fault:
            raise NotMapped(DmaReason.READ_ONLY, fault.address) from fault
        except NoDescriptor as fault:
            raise OnlyByMessage(DmaReason.UNMAPPED, fault.address) from fault
        except Unmapped as fault:
            return self._peer(address, length, fault, write=write)

    def _peer(self, address: int, length: int, fault: Unmapped, *, write: bool) -> memoryview:
        try:
            return self._function.fabric.memory(self._function, address, length, write=write)
        except ReadOnly as refusal:
            raise DmaRefused(DmaReason.READ_ONLY, refusal.address) from refusal
        except Unmapped:
            raise NotMapped(DmaReason.UNMAPPED, fault.address) from fault
