# SPDX-License-Identifier: Apache-2.0
"""Configuration space word by word: what it holds at power-on, and which bits software can write.

The numbers are the specifications'; the right column is ours to choose where they leave a choice.
"""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.pci import aer, config, pcie
from dma_rehearsal.device.pci.msi import Msi, allowed
from dma_rehearsal.device.trace import Trace

CONFIG_SIZE = 4096
INITIATE_FLR = 1 << 15
_PCIE, _POWER, _MSIX, _AER = 0x40, 0x7C, 0x84, 0x100
_ATS, _PRI, _PASID, _DVSEC = 0x148, 0x150, 0x160, 0x168
# offset: (at power-on, writable); every other word is 0, and stays it.
WORDS = {
    # The header (PCI Local Bus 3.0, section 6.1)
    0x00: (0x13B5, 0),  # Vendor ID
    0x02: (0xED01, 0),  # Device ID
    0x04: (0, 0x0546),  # Command: memory, bus master, parity, SERR, INTx disable
    0x06: (0x0011, 0),  # Status: Immediate Readiness, a list of capabilities
    0x0A: (0xED00, 0),  # Class
    0x0C: (0, 0x00FF),  # Cache Line Size; Latency Timer
    **{0x10 + 4 * bar: (0, 0xF000) for bar in (0, 2, 3, 4)},  # of 4 KiB
    **{0x12 + 4 * bar: (0, 0xFFFF) for bar in range(5)},  # BAR1 has 64 KiB
    0x2C: (0x13B5, 0),  # Subsystem Vendor ID
    0x34: (0x0040, 0),  # Capabilities Pointer
    0x3C: (0x0100, 0x00FF),  # Interrupt Line; Interrupt Pin A
    # PCI Express (PCI Express Base 5.0, section 7.5.3)
    _PCIE: (0x7C10, 0),
    _PCIE + 0x02: (0x0002, 0),  # version 2, an endpoint
    _PCIE + 0x04: (0x8000, 0),  # role-based error reporting
    _PCIE + 0x06: (0x1000, 0),  # FLR
    _PCIE + 0x08: (0x2810, 0x78FF),  # Device Control, but for INITIATE_FLR
    _PCIE + 0x0C: (0x0011, 0),  # Link Capabilities: x1, 2.5 GT/s
    _PCIE + 0x10: (0, 0x0FC3),  # Link Control
    _PCIE + 0x12: (0x0011, 0),  # Link Status: the same
    _PCIE + 0x24: (0x0010, 0),  # Device Capabilities 2: Completion Timeout Disable
    _PCIE + 0x28: (0, 0x0010),  # Device Control 2: the same, and no timeout to choose
    # Power Management (PCI-PM 1.2, section 3.2)
    _POWER: (0x8401, 0),
    _POWER + 0x02: (0x0003, 0),  # version 3
    _POWER + 0x04: (0x0008, 0x0003),  # PMCSR: No_Soft_Reset; the state
    # MSI-X (PCI Local Bus 3.0, section 6.8.2)
    _MSIX: (0x0011, 0),
    _MSIX + 0x02: (0x000F, 0xC000),  # 16 vectors; Enable and Function Mask
    _MSIX + 0x04: (0x0002, 0),  # the table in BAR2
    _MSIX + 0x08: (0x0004, 0),  # the pending bits in BAR4
    # Advanced Error Reporting (section 7.8.4)
    _AER: (0x0001, 0),
    _AER + 0x02: (0x1482, 0),
    _AER + 0x08: (0x0000, 0xF030),  # Uncorrectable Mask
    _AER + 0x0A: (0x0440, 0x07FF),
    _AER + 0x0C: (0x2030, 0xF030),  # Severity
    _AER + 0x0E: (0x0046, 0x07FF),
    _AER + 0x14: (0xE000, 0xF1C1),  # Correctable Mask
    # Address Translation Services and Page Requests (sections 10.5.1 and 10.5.2)
    _ATS: (0x000F, 0),
    _ATS + 0x02: (0x1501, 0),
    _ATS + 0x04: (0x0021, 0),  # queue depth 1, aligned requests
    _ATS + 0x06: (0, 0x801F),  # Enable; Smallest Translation Unit
    _PRI: (0x0013, 0),
    _PRI + 0x02: (0x1601, 0),
    _PRI + 0x04: (0, 0x0001),  # Enable
    _PRI + 0x06: (0x0100, 0),  # Stopped
    _PRI + 0x08: (0x0001, 0),  # the capacity
    _PRI + 0x0C: (0, 0xFFFF),  # the allocation
    _PRI + 0x0E: (0, 0xFFFF),
    # Process Address Space ID (section 7.8.8)
    _PASID: (0x001B, 0),
    _PASID + 0x02: (0x1681, 0),
    _PASID + 0x04: (0x1406, 0),  # 20 bits, execute and privileged
    _PASID + 0x06: (0, 0x0007),  # the three enables
    # Designated Vendor-Specific (section 7.9.6): Arm's layout
    _DVSEC: (0x0023, 0),
    _DVSEC + 0x02: (0x0001, 0),
    _DVSEC + 0x04: (0x13B5, 0),
    _DVSEC + 0x06: (0x00C0, 0),  # 12 bytes, revision 0
    _DVSEC + 0x08: (0x0001, 0),  # its id
    _DVSEC + 0x0A: (0, 0xFFF5),
}


@pytest.fixture
def exerciser() -> Exerciser:
    return Exerciser(Trace(), capabilities=tuple(OptionalCapability))


def word(exerciser: Exerciser, offset: int) -> int:
    return int.from_bytes(exerciser.region_read(7, offset, 2), "little")


def test_every_word_at_power_on(exerciser: Exerciser) -> None:
    found = {at: word(exerciser, at) for at in range(0, CONFIG_SIZE, 2)}
    assert {at: value for at, value in found.items() if value} == {
        at: value for at, (value, _) in WORDS.items() if value
    }


def test_every_bit_that_software_can_write(exerciser: Exerciser) -> None:
    """Each word alone: ones, then zeros. What cannot be written stays as it was."""
    writable = {}
    for at in range(0, CONFIG_SIZE, 2):
        before = word(exerciser, at)
        ones = 0xFFFF & ~INITIATE_FLR if at == _PCIE + 0x08 else 0xFFFF
        exerciser.region_write(7, at, struct.pack("<H", ones))
        high = word(exerciser, at)
        exerciser.region_write(7, at, bytes(2))
        low = word(exerciser, at)
        if high != low:
            writable[at] = high & ~low
        fixed = 0xFFFF & ~writable.get(at, 0)
        if at != _DVSEC + 0x0A:  # its commands are gone when they are given
            assert high & fixed == low & fixed == before & fixed, hex(at)
    assert writable == {at: bits for at, (_, bits) in WORDS.items() if bits}


def test_bits_have_the_specifications_places() -> None:
    """Base 5.0, sections 7.5.3.4 and .5, 7.8.4.2 and .5; PCI Local Bus 3.0, 6.2.2 and 6.2.3."""
    assert [int(bit).bit_length() - 1 for bit in config.Command] == [0, 1, 2, 6, 8, 10]
    assert [int(bit).bit_length() - 1 for bit in config.Status] == [0, 3, 4]
    assert [int(bit).bit_length() - 1 for bit in pcie.DeviceControl] == [4, 8, 11, 15]
    assert [int(bit).bit_length() - 1 for bit in pcie.DeviceStatus] == [0, 1, 2, 3, 5]
    uncorrectable = [4, 5, *range(12, 27)]
    assert [int(bit).bit_length() - 1 for bit in aer.Uncorrectable] == uncorrectable
    correctable = [0, 6, 7, 8, 12, 13, 14, 15]
    assert [int(bit).bit_length() - 1 for bit in aer.Correctable] == correctable
    for bits in config.Command, pcie.DeviceControl, pcie.DeviceStatus, aer.Uncorrectable:
        assert all(int(bit).bit_count() == 1 for bit in bits)
    assert [int(each) for each in pcie.Offset] == [
        *(0x02, 0x04, 0x08, 0x0A, 0x0C, 0x10, 0x12, 0x24, 0x28)
    ]
    assert [int(each) for each in aer.Offset] == [*(0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1C, 0x38)]


def test_detected_errors_are_cleared_one_by_one(exerciser: Exerciser) -> None:
    """Device Status is RW1C but for Transactions Pending (section 7.5.3.5)."""
    status = _PCIE + pcie.Offset.DEVICE_STATUS
    for bit in pcie.DeviceStatus:
        pcie.set_status(exerciser.config, _PCIE, bit)
    assert word(exerciser, status) == 0x2F
    for ones, left in ((1 << 0, 0x2E), (1 << 2, 0x2A), (0x10, 0x2A), (0xFFFF, 0x20)):
        exerciser.region_write(7, status, struct.pack("<H", ones))
        assert word(exerciser, status) == left
    pcie.set_status(exerciser.config, _PCIE, pcie.DeviceStatus.TRANSACTIONS_PENDING, False)
    assert word(exerciser, status) == 0


@pytest.mark.parametrize("error", list(aer.Uncorrectable))
def test_first_error_pointer_is_the_place_of_the_bit(
    exerciser: Exerciser, error: aer.Uncorrectable
) -> None:
    """Advanced Error Capabilities and Control, bits 4:0 (section 7.8.4.7)."""
    exerciser.region_write(7, _AER + aer.Offset.UNCORRECTABLE_MASK, bytes(4))
    aer.report(exerciser.config, _AER, error)
    assert word(exerciser, _AER + aer.Offset.CONTROL) == int(error).bit_length() - 1
    assert aer.is_fatal(exerciser.config, _AER, error) is bool(0x0046_2030 & error)
    other = (
        aer.Uncorrectable.ECRC if error != aer.Uncorrectable.ECRC else aer.Uncorrectable.INTERNAL
    )
    aer.report(exerciser.config, _AER, other)
    assert word(exerciser, _AER + aer.Offset.CONTROL) == int(error).bit_length() - 1, "the first"


@pytest.mark.parametrize(("messages", "capable"), [(1, 0), (2, 1), (8, 3), (32, 5)])
def test_msi_capability(messages: int, capable: int) -> None:
    """PCI Local Bus 3.0, section 6.8.1: 64-bit addresses, a power of two of messages."""
    msi = Msi(messages)
    assert msi.body() == struct.pack("<HQH", 0x80 | capable << 1, 0, 0)
    for enable in 0, 1:
        assert allowed(capable << 4 | enable) == messages * enable
    assert msi.write_mask() == struct.pack("<HQH", 0x71, 0xFFFF_FFFF_FFFF_FFFC, 0xFFFF)
