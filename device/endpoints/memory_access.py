# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a request are, once nothing refused it: in memory, or behind caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.dma import Data, DmaRefused
from dma_rehearsal.device.endpoints.interconnect import Caches
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import ClientFault, ClientGone, MemoryFault, ReadOnly
from dma_rehearsal.device.vfio_user.model import Place


@dataclass(slots=True)
class Views:
    """Memory without caches before it."""

    views: Sequence[View]

    @property
    def certain(self) -> bool:
        """Return whether the client cannot take its memory away."""
        return all(isinstance(each, memoryview) for each in self.views)

    def read(self) -> bytes:
        """Return a copy. DmaRefused where the client has taken its memory away."""
        try:
            return b"".join(
                [each if isinstance(each, memoryview) else bytes(each) for each in self.views]
            )
        except MemoryFault as fault:
            raise refusal_of(fault) from fault

    def write(self, data: Data) -> None:
        """Store as many bytes as there are. DmaRefused: as above, behind what was stored."""
        try:
            start = 0
            for view in self.views:
                view[:] = data if len(self.views) == 1 else data[start : start + len(view)]
                start += len(view)
        except MemoryFault as fault:
            raise refusal_of(fault) from fault


@dataclass(slots=True)
class Cached:
    """Memory behind caches, which have let the request pass."""

    caches: Caches
    places: Sequence[Place]
    no_snoop: bool
    certain = False

    def read(self) -> bytes:
        """Return a copy. DmaRefused where the client has cut its memory."""
        try:
            return self.caches.read(self.places, no_snoop=self.no_snoop)
        except MemoryFault as fault:
            raise refusal_of(fault) from fault

    def write(self, data: Data) -> None:
        """Store as many bytes as there are. DmaRefused: as above."""
        try:
            self.caches.write(self.places, bytes(data), no_snoop=self.no_snoop)
        except MemoryFault as fault:
            raise refusal_of(fault) from fault


Target = Views | Cached


def refusal_of(fault: MemoryFault) -> DmaRefused:
    """Return the refusal that a fault of the client's memory is."""
    if isinstance(fault, ClientGone):
        return DmaRefused(DmaReason.CLIENT_GONE, fault.address)
    if isinstance(fault, ClientFault):
        return DmaRefused(DmaReason.CLIENT_ERROR, fault.address)
    reason = DmaReason.READ_ONLY if isinstance(fault, ReadOnly) else DmaReason.UNMAPPED
    return DmaRefused(reason, fault.address)
