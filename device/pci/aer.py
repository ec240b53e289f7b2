# SPDX-License-Identifier: Apache-2.0
"""Advanced Error Reporting of an endpoint (PCI Express Base 5.0, section 7.8.4)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from dma_rehearsal.device.pci import pcie
from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability
from dma_rehearsal.device.pci.pcie import DeviceStatus


class Offset(IntEnum):
    """Registers, from the capability's start."""

    UNCORRECTABLE_STATUS = 0x04
    UNCORRECTABLE_MASK = 0x08
    UNCORRECTABLE_SEVERITY = 0x0C
    CORRECTABLE_STATUS = 0x10
    CORRECTABLE_MASK = 0x14
    CONTROL = 0x18  # Advanced Error Capabilities and Control
    HEADER_LOG = 0x1C
    TLP_PREFIX_LOG = 0x38


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
    MULTICAST_BLOCKED_TLP = 1 << 23
    ATOMICOP_EGRESS_BLOCKED = 1 << 24
    TLP_PREFIX_BLOCKED = 1 << 25
    POISONED_TLP_EGRESS_BLOCKED = 1 << 26


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
# Sections 7.8.4.3 and 7.8.4.6: these are masked unless software says otherwise.
_UNCORRECTABLE_MASK = Uncorrectable.INTERNAL | Uncorrectable.POISONED_TLP_EGRESS_BLOCKED
_CORRECTABLE_MASK = (
    Correctable.ADVISORY_NON_FATAL
    | Correctable.CORRECTED_INTERNAL
    | Correctable.HEADER_LOG_OVERFLOW
)
_FIRST_ERROR_POINTER = 0x1F
# The header log, the place of a root port's registers and the TLP prefix log follow. An error here
# comes without a TLP, so nothing is logged there.
_BODY = struct.Struct("<6I16x12x16x")


class AdvancedErrorReporting(ExtendedCapability):
    """Status, masks, severities and the First Error Pointer; all are sticky."""

    id = 0x0001
    version = 2

    def body(self) -> bytes:
        """Return the registers at power-on."""
        return _BODY.pack(0, _UNCORRECTABLE_MASK, _SEVERITY, 0, _CORRECTABLE_MASK, 0)

    def write_mask(self) -> bytes:
        """Masks and severities can be written."""
        return _BODY.pack(0, _UNCORRECTABLE, _UNCORRECTABLE, 0, _CORRECTABLE, 0)

    def clear_mask(self) -> bytes:
        """The status registers are RW1CS."""
        return _BODY.pack(_UNCORRECTABLE, 0, 0, _CORRECTABLE, 0, 0)

    def sticky(self) -> bool:
        """Errors outlive every reset but power-on."""
        return True

    def written(self, config: ConfigSpace, start: int) -> None:
        """Take the First Error Pointer back when the error that it points to is cleared."""
        status = config.dword(start + Offset.UNCORRECTABLE_STATUS)
        if not status & 1 << _first_error(config, start):
            _point_to(config, start, 0)


def detect(
    config: ConfigSpace, start: int, error: Correctable | Uncorrectable, *, fatal: bool = False
) -> DeviceStatus:
    """Log an error that the function detected; return its severity (Base 5.0, section 6.2).

    ``start`` is the PCI Express capability's. Device Status gets the severity, and the error's own
    bit for an Unsupported Request. Where the function has AER, AER's severities decide and
    ``fatal`` does not. No error message is sent: vfio-user carries none.
    """
    start_aer = config.start_of(AdvancedErrorReporting)
    severity = DeviceStatus.CORRECTABLE_ERROR
    if isinstance(error, Uncorrectable):
        if start_aer is not None:
            fatal = is_fatal(config, start_aer, error)
        severity = DeviceStatus.FATAL_ERROR if fatal else DeviceStatus.NON_FATAL_ERROR
    pcie.set_status(config, start, severity, True)
    if error is Uncorrectable.UNSUPPORTED_REQUEST:
        pcie.set_status(config, start, DeviceStatus.UNSUPPORTED_REQUEST, True)
    if start_aer is not None:
        report(config, start_aer, error)
    return severity


def is_fatal(config: ConfigSpace, start: int, error: Uncorrectable) -> bool:
    """Return whether software has an error be fatal (Uncorrectable Error Severity, 7.8.4.4)."""
    return bool(config.dword(start + Offset.UNCORRECTABLE_SEVERITY) & error)


def report(config: ConfigSpace, start: int, error: Uncorrectable | Correctable) -> None:
    """Log an error in the capability that begins at ``start`` (section 6.2.5).

    Its status bit is set, masked or not. The First Error Pointer stays where it is until software
    clears that error; a masked error does not take it.
    """
    if isinstance(error, Correctable):
        _set(config, start + Offset.CORRECTABLE_STATUS, error)
        return
    status = config.dword(start + Offset.UNCORRECTABLE_STATUS)
    free = not status & 1 << _first_error(config, start)
    _set(config, start + Offset.UNCORRECTABLE_STATUS, error)
    if free and not config.dword(start + Offset.UNCORRECTABLE_MASK) & error:
        _point_to(config, start, error.bit_length() - 1)


def _set(config: ConfigSpace, place: int, bit: int) -> None:
    config.set_dword(place, config.dword(place) | bit)


def _first_error(config: ConfigSpace, start: int) -> int:
    """Return the First Error Pointer; 0, which is the bit of no error, while none was reported."""
    return config.dword(start + Offset.CONTROL) & _FIRST_ERROR_POINTER


def _point_to(config: ConfigSpace, start: int, bit: int) -> None:
    control = config.dword(start + Offset.CONTROL) & ~_FIRST_ERROR_POINTER
    config.set_dword(start + Offset.CONTROL, control | bit)
