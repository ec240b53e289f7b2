"""Advanced Error Reporting of an endpoint (PCI Express Base 5.0, section 7.8.4)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from .config import ConfigSpace, ExtendedCapability


class Offset(IntEnum):
    """Registers, from the capability's start."""

    UNCORRECTABLE_STATUS = 0x04
    UNCORRECTABLE_MASK = 0x08
    UNCORRECTABLE_SEVERITY = 0x0C
    CORRECTABLE_STATUS = 0x10
    CORRECTABLE_MASK = 0x14
    CONTROL = 0x18
    HEADER_LOG = 0x1C


class Uncorrectable(IntFlag):
    """Uncorrectable Error Status, section 7.8.4.2."""

    DATA_LINK_PROTOCOL = 1 << 4
    SURPRISE_DOWN = 1 << 5
    POISONED_TLP = 1 << 12
    FLOW_CONTROL_PROTOCOL = 1 << 13
    COMPLETION_TIMEOUT = 1 << 14
    COMPLETER_ABORT = 1 << 15
    UNEXPECTED_COMPLETION = 1 << 16
    RECEIVER_OVERFLOW = 1 << 17
    MALFORMED_TLP = 1 << 18
    ECRC = 1 << 19
    UNSUPPORTED_REQUEST = 1 << 20
    ACS_VIOLATION = 1 << 21
    INTERNAL = 1 << 22


class Correctable(IntFlag):
    """Correctable Error Status, section 7.8.4.5."""

    RECEIVER = 1 << 0
    BAD_TLP = 1 << 6
    BAD_DLLP = 1 << 7
    REPLAY_NUM_ROLLOVER = 1 << 8
    REPLAY_TIMER_TIMEOUT = 1 << 12
    ADVISORY_NON_FATAL = 1 << 13
    CORRECTED_INTERNAL = 1 << 14
    HEADER_LOG_OVERFLOW = 1 << 15


_UNCORRECTABLE = sum(Uncorrectable)
_CORRECTABLE = sum(Correctable)
# Section 7.8.4.4: these are fatal unless software says otherwise.
_SEVERITY = (
    Uncorrectable.DATA_LINK_PROTOCOL
    | Uncorrectable.SURPRISE_DOWN
    | Uncorrectable.FLOW_CONTROL_PROTOCOL
    | Uncorrectable.RECEIVER_OVERFLOW
    | Uncorrectable.MALFORMED_TLP
    | Uncorrectable.INTERNAL
)
# Header Log and four TLP prefixes follow; nothing is logged there.
_BODY = struct.Struct("<6I16x16x")


class AdvancedErrorReporting(ExtendedCapability):
    """Status, masks and severities; all are sticky."""

    id = 0x0001
    version = 2

    def body(self) -> bytes:
        """Return the registers at power-on."""
        masked = Uncorrectable.INTERNAL, Correctable.ADVISORY_NON_FATAL
        return _BODY.pack(0, masked[0], _SEVERITY, 0, masked[1], 0)

    def write_mask(self) -> bytes:
        """Masks and severities can be written."""
        return _BODY.pack(0, _UNCORRECTABLE, _UNCORRECTABLE, 0, _CORRECTABLE, 0)

    def clear_mask(self) -> bytes:
        """The status registers are RW1CS."""
        return _BODY.pack(_UNCORRECTABLE, 0, 0, _CORRECTABLE, 0, 0)

    def sticky(self) -> bool:
        """Errors outlive a function level reset."""
        return True


def report(config: ConfigSpace, start: int, error: Uncorrectable | Correctable) -> None:
    """Set an error's status bit in the capability that begins at ``start``."""
    correctable = isinstance(error, Correctable)
    place = start + (Offset.CORRECTABLE_STATUS if correctable else Offset.UNCORRECTABLE_STATUS)
    config.set_dword(place, config.dword(place) | error)
