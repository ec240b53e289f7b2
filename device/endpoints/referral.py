"""A function behind an IOMMU that is the client's: what the map refuses goes to the client.

The DMA map holds what the guest's IOMMU lets through, so a refused request is known to be one
without asking. But the IOMMU has not seen it, and raises no fault in the guest. So the page at
fault is asked for by a message, with the real data: the client's IOMMU then refuses it and tells
the guest. (The guest may map the page in between; what moved then is told to the bus.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from device.vfio_user.errors import ClientFault, MemoryFault
from device.vfio_user.model import Client, Dma

from .requests import Data

PAGE: Final = 4096
# Messages of one function without an answer yet; what is refused beyond them is not told.
UNDER_WAY_MAX: Final = 64


class Piece(NamedTuple):
    """A range of a request. Bus address; length in bytes; ``data`` of a write, else None."""

    address: int
    length: int
    data: Data | None


class Referral:
    """Tells one function's client of the requests that its map refused, a message for each."""

    def __init__(self) -> None:
        self._under_way: set[object] = set()

    def tell(
        self,
        client: Client,
        place: Piece,
        answered: Callable[[bytes | MemoryFault], None],
        allowed: Callable[[], bool],
    ) -> None:
        """Ask for ``place``; call ``answered`` with what was read (of a write: none) or the fault.

        At once with a fault where too many are asked for, and never after `forget`. ``allowed``: as
        in `Dma`.
        """
        if len(self._under_way) >= UNDER_WAY_MAX:
            answered(ClientFault(place.address, "too many refusals are under way"))
            return
        message = object()
        self._under_way.add(message)

        def done(outcome: bytes | MemoryFault) -> None:
            if message in self._under_way:
                self._under_way.remove(message)
                answered(outcome)

        data = None if place.data is None else bytes(place.data)
        client.start_dma(Dma(place.address, place.length, data, done, True, allowed))

    @property
    def under_way(self) -> bool:
        """Return whether an answer is awaited."""
        return bool(self._under_way)

    def forget(self) -> None:
        """Let no answer come any more: the client forgets the messages."""
        self._under_way.clear()


def page_at_fault(pieces: Sequence[Piece], address: int) -> Piece | None:
    """Return what a request has of the page that holds ``address``, from that byte on.

    None where the request has no such byte.
    """
    for each in pieces:
        start = address - each.address
        if 0 <= start < each.length:
            length = min(PAGE - address % PAGE, each.length - start)
            data = None if each.data is None else each.data[start : start + length]
            return Piece(address, length, data)
    return None
