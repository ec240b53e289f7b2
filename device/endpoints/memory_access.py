# SPDX-License-Identifier: Apache-2.0
"""An access to the bytes of a request that nothing refused: direct, or through the caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.dma import Data, refusal_of
from dma_rehearsal.device.endpoints.interconnect import Caches
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import FileRange


@dataclass(slots=True)
class DirectAccess:
    """An access to memory without caches before it."""

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
class CachedAccess:
    """An access through caches, which have let the request pass."""

    caches: Caches
    file_ranges: Sequence[FileRange]
    no_snoop: bool
    certain = False

    def read(self) -> bytes:
        """Return a copy. DmaRefused where the client has cut its memory."""
        try:
            return self.caches.read(self.file_ranges, no_snoop=self.no_snoop)
        except MemoryFault as fault:
            raise refusal_of(fault) from fault

    def write(self, data: Data) -> None:
        """Store as many bytes as there are. DmaRefused: as above."""
        try:
            self.caches.write(self.file_ranges, bytes(data), no_snoop=self.no_snoop)
        except MemoryFault as fault:
            raise refusal_of(fault) from fault


MemoryAccess = DirectAccess | CachedAccess
