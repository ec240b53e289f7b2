# SPDX-License-Identifier: Apache-2.0
"""The platform's log of all requests to memory that devices make, and of the refused ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import REFUSED_CAPACITY, DmaDirection, DmaReason, Plat
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError

# REFUSED_REASON to REFUSED_BYTE_HI, in the order of their offsets.
_REFUSED: Final = struct.Struct("<2I3Q")
_MARK_END: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A refused request, whoever refused it. Bus addresses; length in bytes.

    ``number`` counts refusals, ``sequence`` all requests. A request in several ranges has the
    first address, and the bytes of all. ``byte`` is the first byte at fault.
    """

    number: int
    sequence: int
    reason: DmaReason
    direction: DmaDirection
    address: int
    length: int
    byte: int


class RequestLog:
    """The requests of all functions of the device process, except the platform's own walks."""

    def __init__(self, control: Bar, lock: CommandLock, address: str) -> None:
        """``control`` is the platform's BAR0, ``address`` its place for messages."""
        self._control, self._lock, self._address = control, lock, address

    @property
    def count(self) -> int:
        """The sequence number of the newest request; 0 before the first. A reset keeps it."""
        return self._control[Plat.REQUEST_COUNT]

    @property
    def refused_count(self) -> int:
        """The number of requests refused since the platform's last reset."""
        return self._control[Plat.REFUSED_COUNT]

    def refused(
        self, since: int = 0, known: dict[int, RefusedRequest] | None = None
    ) -> list[RefusedRequest]:
        """Return the refused requests whose sequence number is above ``since``, the oldest first.

        The newest 64 are kept; `refused_count` counts all of them. A request in ``known``, by its
        sequence number, is not read again, and those that are read are added to it.
        """
        known = {} if known is None else known
        with self._lock.held():
            last = self.refused_count
            found: list[RefusedRequest] = []
            for number in range(last, max(last - REFUSED_CAPACITY, 0), -1):
                refused = self._refused(number, since, known)
                if refused is None:
                    break
                found.append(refused)
            # Requests that were refused meanwhile overwrite the oldest ones; a reset forgets all.
            now = self.refused_count if found else last
        kept = [each for each in found[::-1] if now - REFUSED_CAPACITY < each.number <= now]
        known.update((each.sequence, each) for each in kept)
        return kept

    def mark(self) -> int:
        """Put a mark between earlier and later requests of the device's trace; return its number.

        The number is one above the last mark's, whichever process made that.
        """
        with self._lock.held():
            number = (self._control[Plat.MARK] + 1) % _MARK_END
            self._control[Plat.MARK] = number
            seen = self._control[Plat.MARK]
        if seen != number:
            raise PlatformDeviceError(f"{self._address}: MARK reads {seen:#x}, not {number:#x}")
        return number

    def _refused(
        self, number: int, since: int, known: dict[int, RefusedRequest]
    ) -> RefusedRequest | None:
        """Return a refusal; None when there is none by this number, or not after ``since``."""
        control = self._control
        control[Plat.REFUSED_SELECT] = number
        valid_sequence = control.get64(Plat.REFUSED_VALID)  # REFUSED_SEQUENCE comes next
        valid, sequence = valid_sequence & 0xFFFF_FFFF, valid_sequence >> 32
        if valid != 1 or sequence <= since:
            return None
        if (found := known.get(sequence)) is not None:
            return found
        block = control.block(Plat.REFUSED_REASON, _REFUSED.size)
        reason, direction, address, length, byte = _REFUSED.unpack(block)
        try:
            why, way = DmaReason(reason), DmaDirection(direction)
        except ValueError as error:
            raise PlatformDeviceError(f"{self._address}: refusal {number}: {error}") from error
        return RefusedRequest(number, sequence, why, way, address, length, byte)
