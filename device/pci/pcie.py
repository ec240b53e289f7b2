# SPDX-License-Identifier: Apache-2.0
"""PCI Express capability of an endpoint (PCI Express Base 5.0, section 7.5.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag

from dma_rehearsal.device.pci.config import Capability, ConfigSpace, ExpressBits


class Offset(IntEnum):
    """Registers, from the capability's start."""

    CAPABILITIES = 0x02
    DEVICE_CAPABILITIES = 0x04
    DEVICE_CONTROL = 0x08
    DEVICE_STATUS = 0x0A
    LINK_CAPABILITIES = 0x0C
    LINK_CONTROL = 0x10
    LINK_STATUS = 0x12
    DEVICE_CAPABILITIES_2 = 0x24
    DEVICE_CONTROL_2 = 0x28


class DeviceControl(IntFlag):
    """Device Control, section 7.5.3.4."""

    RELAXED_ORDERING = 1 << 4
    EXTENDED_TAG = 1 << 8
    NO_SNOOP = 1 << 11
    INITIATE_FLR = 1 << 15


class DeviceCapabilities2(IntFlag):
    """Device Capabilities 2, section 7.5.3.15."""

    COMPLETION_TIMEOUT_DISABLE = 1 << 4
    ATOMIC_COMPLETER_32 = 1 << 7
    ATOMIC_COMPLETER_64 = 1 << 8
    CAS_COMPLETER_128 = 1 << 9
    LTR = 1 << 11


class DeviceControl2(IntFlag):
    """Device Control 2, section 7.5.3.16."""

    COMPLETION_TIMEOUT_DISABLE = 1 << 4
    ATOMIC_REQUESTER_ENABLE = 1 << 6
    LTR_ENABLE = 1 << 10


class DeviceStatus(IntFlag):
    """Device Status, section 7.5.3.5."""

    CORRECTABLE_ERROR = 1 << 0
    NON_FATAL_ERROR = 1 << 1
    FATAL_ERROR = 1 << 2
    UNSUPPORTED_REQUEST = 1 << 3
    TRANSACTIONS_PENDING = 1 << 5


_VERSION = 2
_ROLE_BASED_ERRORS = 1 << 15
_FLR_CAPABLE = 1 << 28
_SIZE = 0x3C
_RESET_CONTROL = DeviceControl.RELAXED_ORDERING | DeviceControl.NO_SNOOP | 2 << 12  # MRRS 512
_LINK_X1_GEN1 = 1 | 1 << 4
_MAX_PAYLOAD_SIZE = 7 << 5  # of Device Control
# Of Device Control: Extended Tag, Phantom Functions and Aux Power, which Device Capabilities does
# not announce. A function without them has 0 there.
_NOT_ANNOUNCED = DeviceControl.EXTENDED_TAG | 1 << 9 | 1 << 10
# Of Link Control: ASPM, Read Completion Boundary, common clock, extended synch, clock power
# management and autonomous width.
_LINK_CONTROL_KEPT = 0x03CB


class PciExpress(Capability):
    """The capability; ``on_flr`` is called when software initiates a function level reset."""

    id = 0x10

    def __init__(self, on_flr: Callable[[], None]) -> None:
        self._on_flr = on_flr
        # An endpoint that sends requests must announce this bit (section 7.5.3.15). The timeout's
        # value can be left out, and is: Completion Timeout Ranges Supported is 0.
        self._capabilities_2 = int(DeviceCapabilities2.COMPLETION_TIMEOUT_DISABLE)
        self._control_2 = int(DeviceControl2.COMPLETION_TIMEOUT_DISABLE)

    def extend(self, bits: ExpressBits) -> None:
        """Have more bits of Device Capabilities 2 set, and of Device Control 2 writable."""
        self._capabilities_2 |= bits.capabilities
        self._control_2 |= bits.control

    def body(self) -> bytes:
        """Return the registers at reset."""
        data = bytearray(_SIZE)
        struct.pack_into("<H", data, Offset.CAPABILITIES, _VERSION)
        struct.pack_into("<I", data, Offset.DEVICE_CAPABILITIES, _ROLE_BASED_ERRORS | _FLR_CAPABLE)
        struct.pack_into("<H", data, Offset.DEVICE_CONTROL, _RESET_CONTROL)
        struct.pack_into("<I", data, Offset.LINK_CAPABILITIES, _LINK_X1_GEN1)
        struct.pack_into("<H", data, Offset.LINK_STATUS, _LINK_X1_GEN1)
        struct.pack_into("<I", data, Offset.DEVICE_CAPABILITIES_2, self._capabilities_2)
        return bytes(data[2:])

    def write_mask(self) -> bytes:
        """Device Control is writable but for what this endpoint does not have."""
        mask = bytearray(_SIZE)
        struct.pack_into("<H", mask, Offset.DEVICE_CONTROL, 0xFFFF & ~int(_NOT_ANNOUNCED))
        struct.pack_into("<H", mask, Offset.LINK_CONTROL, 0x0FC3)
        struct.pack_into("<H", mask, Offset.DEVICE_CONTROL_2, self._control_2)
        return bytes(mask[2:])

    def clear_mask(self) -> bytes:
        """The detected errors are RW1C."""
        mask = bytearray(_SIZE)
        struct.pack_into("<H", mask, Offset.DEVICE_STATUS, 0xF)
        return bytes(mask[2:])

    def kept_by_flr(self) -> bytes:
        """Return the settings of the link, which outlive such a reset (section 6.6.2)."""
        mask = bytearray(_SIZE)
        struct.pack_into("<H", mask, Offset.DEVICE_CONTROL, _MAX_PAYLOAD_SIZE)
        struct.pack_into("<H", mask, Offset.LINK_CONTROL, _LINK_CONTROL_KEPT)
        return bytes(mask[2:])

    def written(self, config: ConfigSpace, start: int) -> None:
        """Initiate FLR is a request and always reads 0 (section 7.5.3.4)."""
        control = config.word(start + Offset.DEVICE_CONTROL)
        if control & DeviceControl.INITIATE_FLR:
            cleared = control & ~int(DeviceControl.INITIATE_FLR)
            config.set_word(start + Offset.DEVICE_CONTROL, cleared)
            self._on_flr()


def set_status(config: ConfigSpace, start: int, bit: DeviceStatus, on: bool = True) -> None:
    """Set or clear a bit of Device Status in the capability that begins at ``start``."""
    value = config.word(start + Offset.DEVICE_STATUS)
    config.set_word(start + Offset.DEVICE_STATUS, value | bit if on else value & ~int(bit))
