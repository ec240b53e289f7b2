# SPDX-License-Identifier: Apache-2.0
"""The exerciser's identity and BAR0, as Arm lays it out, and the fields of its capabilities.

Source: the PCIe Exerciser of Arm's Base System Architecture compliance documents.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

EXERCISER_VENDOR_ID = 0x13B5
EXERCISER_DEVICE_ID = 0xED01
EXERCISER_SUBSYSTEM_VENDOR_ID = 0x13B5
EXERCISER_SUBSYSTEM_ID = 0x0000
EXERCISER_CLASS_CODE = 0xED0000


class ExerciserBar(IntEnum):
    """The exerciser's BARs."""

    CONTROL = 0
    BUFFER = 1
    MSIX_TABLE = 2
    EXTENSION = 3
    MSIX_PBA = 4


CONTROL_SIZE = 0x1000
BUFFER_SIZE_DEFAULT = 0x10000
EXTENSION_SIZE = 0x1000
VECTORS_DEFAULT = 16


class Reg(IntEnum):
    """BAR0: offsets of the exerciser's control registers, as Arm lays them out."""

    MSICTL = 0x00
    INTXCTL = 0x04
    DMACTL = 0x08
    DMA_OFFSET = 0x0C
    DMA_BUS_ADDR_LO = 0x10
    DMA_BUS_ADDR_HI = 0x14
    DMA_LEN = 0x18
    DMASTATUS = 0x1C
    PASID_VAL = 0x20
    ATSCTL = 0x24
    ATS_ADDR_LO = 0x28
    ATS_ADDR_HI = 0x2C
    ATS_RANGE_SIZE = 0x30
    ATS_PERM = 0x38
    RID_CTL = 0x3C
    TXN_TRACE = 0x40
    TXN_CTRL = 0x44
    VDM_CTL = 0x48


MSICTL_VECTOR = 0x7FF
MSICTL_TRIGGER = 1 << 31
INTXCTL_ASSERT = 1 << 0


class DmaCtl(IntFlag):
    """DMACTL: [3:0] trigger, then the attributes of the transaction."""

    TRIGGER = 1 << 0
    TRIGGER_MASK = 0xF
    WRITE_MEMORY = 1 << 4  # clear: read memory into the device
    NO_SNOOP = 1 << 5
    PASID = 1 << 6
    PRIVILEGED = 1 << 7
    INSTRUCTION = 1 << 8
    USE_ATC = 1 << 9
    AT_MASK = 3 << 10


class AddressType(IntEnum):
    """DMACTL[11:10]."""

    UNTRANSLATED = 0
    UNTRANSLATED_1 = 1
    TRANSLATED = 2
    RESERVED = 3


class DmaStatus(IntEnum):
    """DMASTATUS[1:0]. A refused DMA moves nothing."""

    OK = 0
    RANGE = 1
    INTERNAL = 2


DMASTATUS_CODE = 0x3
DMASTATUS_CLEAR = 1 << 2


class AtsCtl(IntFlag):
    """ATSCTL: a translation request, and what came of it."""

    TRIGGER = 1 << 0
    PRIVILEGED = 1 << 1
    NO_WRITE = 1 << 2
    PASID = 1 << 3
    EXECUTE = 1 << 4
    CLEAR_ATC = 1 << 5
    IN_FLIGHT = 1 << 6
    SUCCESS = 1 << 7
    CACHEABLE = 1 << 8
    INVALIDATED = 1 << 9


class AtsPerm(IntFlag):
    """ATS_PERM. Arm's documents disagree on the last bit: 5 in one place, 6 in another."""

    EXECUTE = 1 << 0
    WRITE = 1 << 1
    READ = 1 << 2
    PRIVILEGED_EXECUTE = 1 << 3
    PRIVILEGED_WRITE = 1 << 4
    PRIVILEGED_READ = 1 << 5


RID_MASK = 0xFFFF
RID_VALID = 1 << 31
PASID_MASK = 0xF_FFFF
TXN_TRACE_EMPTY = 0xFFFF_FFFF
TXN_TRACE_CAPACITY = 16
TXN_ENABLE = 1 << 0


class TxnAttribute(IntFlag):
    """The first of a traced transaction's five words; [31:16] one bit, at log2 of the size."""

    READ = 1 << 1
    CONFIG = 1 << 2


TXN_SIZE_SHIFT = 16
TXN_WORDS = 5  # attributes, address lo, address hi, data lo, data hi


class ErrorInjection(IntFlag):
    """Control of the error-injection DVSEC; its low half is the DVSEC's id."""

    CORRUPT_DMA = 1 << 16
    INJECT = 1 << 17
    POISON = 1 << 18
    CODE_MASK = 0x7FF << 20
    FATAL = 1 << 31


ERROR_DVSEC_VENDOR = 0x13B5
ERROR_DVSEC_ID = 1
