# SPDX-License-Identifier: Apache-2.0
"""What a function asks of memory, and how it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dma_rehearsal.device.layout import AddressType, DmaReason


class DmaRefused(Exception):
    """A DMA that moved nothing. ``address`` is the first byte at fault.

    ``nearest`` has the facts of the protection unit's grant nearest to it, where that refused it.
    """

    def __init__(
        self, reason: DmaReason, address: int, nearest: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(f"{reason.name} at {address:#x}")
        self.reason = reason
        self.address = address
        self.nearest = nearest


class OnlyByMessage(DmaRefused):
    """Refused, for only the client reaches it: ``read_async`` and its like can have it."""


class NotMapped(DmaRefused):
    """Refused by the client's DMA map: UNMAPPED or READ_ONLY."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a memory request carries beside its address (PCI Express Base 5.0, 2.2.6 and 2.2.10).

    vfio-user carries none of them: they are *modelled*, that is applied here and recorded.
    """

    no_snoop: bool = False
    address_type: AddressType = AddressType.UNTRANSLATED
    pasid: int | None = None  # 20 bits
    privileged: bool = False
    execute: bool = False
    requester_id: int | None = None  # 16 bits, where it is not the function's own


PLAIN = Attributes()
Ranges = Sequence[tuple[int, int]]  # bus address, bytes
Data = bytes | memoryview  # of a write; a view is of bytes that do not change
# Of a read as Ranges; of a write (bus address, data), which lists of thousands come as and stay.
Segments = Sequence[tuple[int, Any]]


class Transaction(NamedTuple):
    """One request as it left the function, or did not leave it. Length in bytes."""

    write: bool
    address: int
    length: int
    attributes: Attributes
    reason: DmaReason


# What came of a DMA: what was read of each of its ranges (of a write: nothing), or the refusal.
Outcome = list[bytes] | DmaRefused


def ranges_of(segments: Segments, *, write: bool) -> Ranges:
    """Return the ranges of what is read or written."""
    return [(address, len(data)) for address, data in segments] if write else segments


def bare(refusal: DmaRefused) -> DmaRefused:
    """Return a refusal that may be kept: its traceback's frames hold views of memory."""
    return type(refusal)(refusal.reason, refusal.address, refusal.nearest)
