# SPDX-License-Identifier: Apache-2.0
"""MSI capability with 64-bit addresses (PCI Local Bus 3.0, section 6.8.1)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import Capability, ConfigSpace

MAX_MESSAGES = 32
MESSAGE_CONTROL = 0x02  # from the capability's start
ENABLE = 1 << 0
_ONE_MULTIPLE = 1 << 4  # the unit of the field below
_MULTIPLE_MESSAGE_ENABLE = 7 << 4
_64_BIT = 1 << 7
_PER_VECTOR_MASKING = 1 << 8
_MASK_BITS, _PENDING_BITS = 0x10, 0x14  # from the capability's start, with 64-bit addresses
_BODY = struct.Struct("<HQH")  # Message Control, address, data
_MASKING = struct.Struct("<HII")  # reserved, Mask Bits, Pending Bits


class Msi(Capability):
    """Up to 32 messages, a power of two. ``masks``: with per-vector masks and pending bits.

    All of its registers are 0 at reset, but for what says what the function has.
    """

    id = 0x05

    def __init__(self, messages: int, *, masks: bool = False) -> None:
        """Raise ValueError for a number that is not a power of two from 1 to 32."""
        if not 1 <= messages <= MAX_MESSAGES or messages & (messages - 1):
            raise ValueError(f"{messages} MSI messages: a power of two, 1 to {MAX_MESSAGES}")
        self._messages, self._masks = messages, masks

    def body(self) -> bytes:
        """Return Message Control, address and data, then masks and pending bits."""
        control = _64_BIT | self._messages.bit_length() - 1 << 1
        if not self._masks:
            return _BODY.pack(control, 0, 0)
        return _BODY.pack(control | _PER_VECTOR_MASKING, 0, 0) + _MASKING.pack(0, 0, 0)

    def write_mask(self) -> bytes:
        """Allow MSI Enable, Multiple Message Enable, address (its low bits are 0), data, masks.

        The mask bit of a message that the function does not have is reserved (6.8.1.7).
        """
        control = ENABLE | _MULTIPLE_MESSAGE_ENABLE
        allowed = _BODY.pack(control, 0xFFFF_FFFF_FFFF_FFFC, 0xFFFF)
        return allowed + _MASKING.pack(0, (1 << self._messages) - 1, 0) if self._masks else allowed


def enabled(messages: int) -> int:
    """Return Message Control as software writes it to enable so many messages, a power of two."""
    return ENABLE | (messages.bit_length() - 1) * _ONE_MULTIPLE


def allowed(control: int) -> int:
    """Return how many messages software allocated, by Message Control; 0 while it is disabled."""
    return 1 << (control & _MULTIPLE_MESSAGE_ENABLE) // _ONE_MULTIPLE if control & ENABLE else 0


def masks(config: ConfigSpace, start: int) -> int:
    """Return the Mask Bits of the capability that begins at ``start``; 0 where it has none."""
    if not config.word(start + MESSAGE_CONTROL) & _PER_VECTOR_MASKING:
        return 0
    return config.dword(start + _MASK_BITS)


def show_pending(config: ConfigSpace, start: int, bits: int) -> None:
    """Show which messages are pending, where the capability has Pending Bits."""
    if config.word(start + MESSAGE_CONTROL) & _PER_VECTOR_MASKING:
        config.set_dword(start + _PENDING_BITS, bits)
