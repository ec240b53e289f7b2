# SPDX-License-Identifier: Apache-2.0
"""Requests of a function to memory: attributes, scatter lists, outcomes and refusals."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dma_rehearsal.device.layout import AddressType, DmaReason
from dma_rehearsal.device.vfio_user.errors import ClientFault, ClientGone, MemoryFault, ReadOnly
from dma_rehearsal.device.vfio_user.model import Ask


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


class Dropped(Exception):
    """Thrown into a DMA that asks the client, and is dropped; ``answer`` is to its last message."""

    def __init__(self, answer: bytes | MemoryFault | None) -> None:
        super().__init__("dropped")
        self.answer = answer


class OnlyByMessage(DmaRefused):
    """Refused, for only the client reaches it: ``read_async`` and its like can have it."""


class NotMapped(DmaRefused):
    """Refused by the client's DMA map: UNMAPPED or READ_ONLY."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a memory request (PCI Express Base 5.0, 2.2.6 and 2.2.10).

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
DATA = (bytes, bytearray, memoryview)
Data = bytes | memoryview  # of a write; a view is of bytes that do not change
# Of a read Ranges; of a write (bus address, data). Lists of thousands stay as they came.
ScatterList = Sequence[tuple[int, Any]]


class Transaction(NamedTuple):
    """One request as it left the function, or did not leave it. Length in bytes."""

    write: bool
    address: int
    length: int
    attributes: Attributes
    reason: DmaReason


# Of a DMA: the bytes read of each of its ranges (of a write: none), or the refusal.
Outcome = list[bytes] | DmaRefused
# A DMA that asks the client, one message after the other; it is sent each answer.
Asking = Generator[Ask, bytes | MemoryFault, Outcome]


def ranges_of(segments: ScatterList, *, write: bool) -> Ranges:
    """Return the ranges that a scatter list reads or writes."""
    return [(address, len(data)) for address, data in segments] if write else segments


def type_mistake(segments: object, *, write: bool) -> str | None:
    """Return words about the first segment that is not an address and bytes, or a length."""
    for each in segments if isinstance(segments, Iterable) else ():
        if not isinstance(each, tuple | list) or len(each) != 2:
            pair = "(address, data)" if write else "(address, length)"
            return f"a segment {repr(each)[:60]}; a list of segments has pairs: [{pair}, ...]"
        address, rest = each
        if not hasattr(address, "__index__"):
            return f"a DMA at the address {repr(address)[:60]}; a bus address is an int"
        if write and not _has_bytes(rest):
            return f"a DMA that writes {repr(rest)[:60]}; give bytes: value.to_bytes(4, 'little')"
        if not write and not hasattr(rest, "__index__"):
            return f"a DMA that reads {repr(rest)[:60]} bytes; a length is an int"
    return None


def _has_bytes(data: object) -> bool:
    try:
        memoryview(data)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def bare(refusal: DmaRefused) -> DmaRefused:
    """Return a refusal that may be kept: its traceback's frames hold views of memory."""
    return type(refusal)(refusal.reason, refusal.address, refusal.nearest)


def refusal_of(fault: MemoryFault) -> DmaRefused:
    """Return the refusal that a fault of the client's memory is."""
    if isinstance(fault, ClientGone):
        return DmaRefused(DmaReason.CLIENT_GONE, fault.address)
    if isinstance(fault, ClientFault):
        return DmaRefused(DmaReason.CLIENT_ERROR, fault.address)
    reason = DmaReason.READ_ONLY if isinstance(fault, ReadOnly) else DmaReason.UNMAPPED
    return DmaRefused(reason, fault.address)
