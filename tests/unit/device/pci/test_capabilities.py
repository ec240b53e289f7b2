# SPDX-License-Identifier: Apache-2.0
"""The capabilities beside the standard ones: what software may do, what is sticky."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    DmaAttribute,
    DmaCtl,
    DmaReason,
    DmaStatus,
    ErrorInjection,
    Reg,
)
from dma_rehearsal.device.pci import aer
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability, Identity
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.pci.vendor import VendorSpecific
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, dma, read32, write32
from tests.unit.device.pci.capability_list import AER, ATS, DVSEC, PASID, PRI, extended

ALL = tuple(OptionalCapability)
FLR = struct.pack("<H", 1 << 15)


def make(client: FakeClient, *capabilities: OptionalCapability) -> Exerciser:
    made = Exerciser(Trace(), capabilities=capabilities)
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    return made


def test_which_are_there() -> None:
    assert list(extended(Exerciser(Trace()).config)) == [ATS, PRI]
    assert not extended(Exerciser(Trace(), capabilities=()).config)
    everything = Exerciser(Trace(), capabilities=ALL)
    assert list(extended(everything.config)) == [AER, ATS, PRI, PASID, DVSEC]


def test_list_that_is_too_long() -> None:
    class Large(ExtendedCapability):
        id = 0xB

        def body(self) -> bytes:
            return bytes(4000)

    config = ConfigSpace(Identity(1, 2, 3), {})
    with pytest.raises(ValueError, match="longer"):
        config.add(Large())


@pytest.mark.parametrize("reset", ["flr", "device reset"])
def test_aer_is_cleared_by_1_and_outlives_resets(client: FakeClient, reset: str) -> None:
    """They are sticky: only power-on takes them back (Base 5.0, section 7.4)."""
    exerciser = make(client, OptionalCapability.AER)
    start = extended(exerciser.config)[AER]
    aer.report(exerciser.config, start, Uncorrectable.COMPLETION_TIMEOUT)
    aer.report(exerciser.config, start, Correctable.BAD_TLP)
    status = start + aer.Offset.UNCORRECTABLE_STATUS
    write32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK, Uncorrectable.POISONED_TLP)
    if reset == "flr":
        exerciser.region_write(7, 0x48, FLR)
    else:
        exerciser.device_reset()
    assert read32(exerciser, 7, status) == Uncorrectable.COMPLETION_TIMEOUT
    assert first_error(exerciser) == 14
    mask = read32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK)
    assert mask == Uncorrectable.POISONED_TLP
    write32(exerciser, 7, status, Uncorrectable.POISONED_TLP)
    assert read32(exerciser, 7, status) == Uncorrectable.COMPLETION_TIMEOUT
    write32(exerciser, 7, status, 0xFFFF_FFFF)
    assert read32(exerciser, 7, status) == 0
    assert read32(exerciser, 7, start + aer.Offset.CORRECTABLE_STATUS) == Correctable.BAD_TLP
    made_anew = make(client, OptionalCapability.AER)
    assert read32(made_anew, 7, start + aer.Offset.CORRECTABLE_STATUS) == 0


def first_error(exerciser: Exerciser) -> int:
    """Return the First Error Pointer."""
    return read32(exerciser, 7, extended(exerciser.config)[AER] + aer.Offset.CONTROL) & 0x1F


def test_first_error_pointer_stays_until_its_error_is_cleared(client: FakeClient) -> None:
    exerciser = make(client, OptionalCapability.AER)
    start = extended(exerciser.config)[AER]
    status = start + aer.Offset.UNCORRECTABLE_STATUS
    write32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK, Uncorrectable.ECRC)
    aer.report(exerciser.config, start, Uncorrectable.ECRC)
    assert first_error(exerciser) == 0, "a masked error does not take it"
    aer.report(exerciser.config, start, Correctable.BAD_DLLP)
    assert first_error(exerciser) == 0
    aer.report(exerciser.config, start, Uncorrectable.POISONED_TLP)
    aer.report(exerciser.config, start, Uncorrectable.UNSUPPORTED_REQUEST)
    assert first_error(exerciser) == 12
    write32(exerciser, 7, status, Uncorrectable.UNSUPPORTED_REQUEST)
    assert first_error(exerciser) == 12, "its own error stands"
    write32(exerciser, 7, status, Uncorrectable.POISONED_TLP)
    assert first_error(exerciser) == 0
    aer.report(exerciser.config, start, Uncorrectable.ACS_VIOLATION)
    assert first_error(exerciser) == 21


def test_aer_at_power_on(client: FakeClient) -> None:
    """Base 5.0, sections 7.8.4.3, 7.8.4.4 and 7.8.4.6."""
    exerciser = make(client, OptionalCapability.AER)
    start = extended(exerciser.config)[AER]
    assert read32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK) == 1 << 22 | 1 << 26
    assert read32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_SEVERITY) == 0x0046_2030
    assert read32(exerciser, 7, start + aer.Offset.CORRECTABLE_MASK) == 0xE000


def test_no_capability_lies_over_aers_logs() -> None:
    """Its TLP prefix log ends at 0x48 (Base 5.0, section 7.8.4)."""
    found = extended(Exerciser(Trace(), capabilities=ALL).config)
    assert not [each for each in found.values() if found[AER] < each < found[AER] + 0x48]


def test_page_requests_are_stopped_while_they_are_not_enabled(client: FakeClient) -> None:
    exerciser = make(client, OptionalCapability.ATS)
    start = extended(exerciser.config)[PRI]
    for control, status in (0, 1 << 8), (1, 0), (0, 1 << 8):
        exerciser.region_write(7, start + 4, struct.pack("<H", control))
        assert exerciser.config.word(start + 6) == status


def test_cache_line_size_can_be_written_and_is_reset(exerciser: Exerciser) -> None:
    """Base 5.0, 7.5.1.1.7; the latency timer beside it is 0 in PCI Express."""
    exerciser.region_write(7, 0x0C, b"\x10\x40")
    assert exerciser.region_read(7, 0x0C, 2) == b"\x10\0"
    exerciser.device_reset()
    assert exerciser.region_read(7, 0x0C, 1) == b"\0"


def test_flr_takes_ats_and_pasid_down(client: FakeClient) -> None:
    exerciser = make(client, *ALL)
    found = extended(exerciser.config)
    for capability, bit in ((ATS, 1 << 15), (PASID, 1)):
        exerciser.region_write(7, found[capability] + 6, struct.pack("<H", bit))
        assert exerciser.config.word(found[capability] + 6) == bit
    exerciser.region_write(7, 0x48, FLR)
    assert exerciser.config.word(found[ATS] + 6) == 0
    assert exerciser.config.word(found[PASID] + 6) == 0


def test_pasid_leaves_only_when_it_is_enabled(client: FakeClient) -> None:
    exerciser = make(client, *ALL)
    write32(exerciser, 0, Reg.PASID_VAL, 0xFFF1_2345)
    asked = DmaCtl.PASID | DmaCtl.PRIVILEGED | DmaCtl.INSTRUCTION
    found = dma(exerciser, BASE, 4, write=True, control=asked)
    attributes = DmaAttribute.PASID | DmaAttribute.PRIVILEGED | DmaAttribute.INSTRUCTION
    assert (found["attributes"], found["pasid"]) == (attributes, 0)
    assert not exerciser.bus.transactions[-1].attributes.privileged
    exerciser.region_write(7, extended(exerciser.config)[PASID] + 6, b"\x07\x00")
    found = dma(exerciser, BASE, 4, write=True, control=asked)
    assert found["pasid"] == 1 << 31 | 0x12345
    sent = exerciser.bus.transactions[-1].attributes
    assert (sent.pasid, sent.privileged, sent.execute) == (0x12345, True, True)


def test_requester_id(exerciser: Exerciser) -> None:
    write32(exerciser, 0, Reg.RID_CTL, 0x1234)
    assert dma(exerciser, BASE, 4, write=True)["requester_id"] == 0
    write32(exerciser, 0, Reg.RID_CTL, 1 << 31 | 0x1234)
    assert dma(exerciser, BASE, 4, write=True)["requester_id"] == 1 << 31 | 0x1234


def inject(exerciser: Exerciser, value: int) -> None:
    write32(exerciser, 7, extended(exerciser.config)[DVSEC] + 8, value)


def test_error_injection_header(client: FakeClient) -> None:
    exerciser = make(client, *ALL)
    start = extended(exerciser.config)[DVSEC]
    inject(exerciser, 0)
    assert read32(exerciser, 7, start + 4) == 0x00C0_13B5
    assert exerciser.config.word(start + 8) == 1, "the id cannot be written"


CODES = (
    *(Correctable.RECEIVER, Correctable.BAD_TLP, Correctable.BAD_DLLP),
    *(Correctable.REPLAY_NUM_ROLLOVER, Correctable.REPLAY_TIMER_TIMEOUT),
    *(Correctable.ADVISORY_NON_FATAL, Correctable.CORRECTED_INTERNAL),
    *(Correctable.HEADER_LOG_OVERFLOW, Uncorrectable.DATA_LINK_PROTOCOL),
    *(Uncorrectable.SURPRISE_DOWN, Uncorrectable.POISONED_TLP),
    *(Uncorrectable.FLOW_CONTROL_PROTOCOL, Uncorrectable.COMPLETION_TIMEOUT),
    *(Uncorrectable.COMPLETER_ABORT, Uncorrectable.UNEXPECTED_COMPLETION),
    *(Uncorrectable.RECEIVER_OVERFLOW, Uncorrectable.MALFORMED_TLP, Uncorrectable.ECRC),
    *(Uncorrectable.UNSUPPORTED_REQUEST, Uncorrectable.ACS_VIOLATION, Uncorrectable.INTERNAL),
    *(Uncorrectable.MULTICAST_BLOCKED_TLP, Uncorrectable.ATOMICOP_EGRESS_BLOCKED),
    *(Uncorrectable.TLP_PREFIX_BLOCKED, Uncorrectable.POISONED_TLP_EGRESS_BLOCKED),
)
# Device Status, Base 5.0, 7.5.3.5.
CORRECTED, NON_FATAL, FATAL, UNSUPPORTED = 1, 2, 4, 8
# The bits of the errors that are fatal unless software says otherwise.
FATAL_AT_RESET = (4, 5, 13, 17, 18, 22)


@pytest.mark.parametrize("code", range(len(CODES)))
def test_injected_error_is_logged_by_its_code(client: FakeClient, code: int) -> None:
    """The codes are those of Arm's PCIe error injection document."""
    exerciser, error = make(client, *ALL), CODES[code]
    start = extended(exerciser.config)[AER]
    inject(exerciser, code << 20)
    assert exerciser.config.word(0x4A) == 0, "nothing without the trigger"
    inject(exerciser, ErrorInjection.INJECT | code << 20)
    bit = error.bit_length() - 1
    uncorrectable = isinstance(error, Uncorrectable)
    status = CORRECTED
    if uncorrectable:
        status = FATAL if bit in FATAL_AT_RESET else NON_FATAL
    if error is Uncorrectable.UNSUPPORTED_REQUEST:
        status |= UNSUPPORTED
    assert exerciser.config.word(0x4A) == status
    assert read32(exerciser, 7, start + 4) == (error if uncorrectable else 0)
    assert read32(exerciser, 7, start + 0x10) == (0 if uncorrectable else error)
    masked = error in (Uncorrectable.INTERNAL, Uncorrectable.POISONED_TLP_EGRESS_BLOCKED)
    assert first_error(exerciser) == (bit if uncorrectable and not masked else 0)
    exerciser.region_write(7, 0x4A, b"\x0f\x00")
    assert exerciser.config.word(0x4A) == 0, "Device Status is cleared by 1"
    dvsec = extended(exerciser.config)[DVSEC]
    assert not read32(exerciser, 7, dvsec + 8) & ErrorInjection.INJECT


@pytest.mark.parametrize("code", [len(CODES), 0x1A, 0x7FF])
def test_code_of_no_error_does_nothing(client: FakeClient, code: int) -> None:
    exerciser = make(client, *ALL)
    start = extended(exerciser.config)[AER]
    inject(exerciser, ErrorInjection.INJECT | code << 20)
    assert exerciser.config.word(0x4A) == 0
    assert (read32(exerciser, 7, start + 4), read32(exerciser, 7, start + 0x10)) == (0, 0)


@pytest.mark.parametrize("asked", [0, ErrorInjection.FATAL], ids=["not fatal", "fatal"])
@pytest.mark.parametrize("fatal", [True, False])
def test_severity_is_aers(client: FakeClient, asked: int, fatal: bool) -> None:
    exerciser = make(client, *ALL)
    severity = extended(exerciser.config)[AER] + aer.Offset.UNCORRECTABLE_SEVERITY
    write32(exerciser, 7, severity, Uncorrectable.POISONED_TLP if fatal else 0)
    inject(exerciser, ErrorInjection.INJECT | 0x0A << 20 | asked)
    assert exerciser.config.word(0x4A) == (FATAL if fatal else NON_FATAL)


@pytest.mark.parametrize(
    ("asked", "status"), [(0, NON_FATAL), (ErrorInjection.FATAL, FATAL)], ids=["not fatal", "fatal"]
)
def test_severity_without_aer_is_the_injections(
    client: FakeClient, asked: int, status: int
) -> None:
    exerciser = make(client, OptionalCapability.ERROR_INJECTION)
    inject(exerciser, ErrorInjection.INJECT | 0x0A << 20 | asked)
    assert exerciser.config.word(0x4A) == status


def test_masked_error_is_logged_and_not_pointed_to(client: FakeClient) -> None:
    """Base 5.0, 6.2.5: Device Status and AER's status are set, masked or not."""
    exerciser = make(client, *ALL)
    start = extended(exerciser.config)[AER]
    write32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK, 0xFFFF_FFFF)
    inject(exerciser, ErrorInjection.INJECT | 0x12 << 20)
    assert read32(exerciser, 7, start + 4) == Uncorrectable.UNSUPPORTED_REQUEST
    assert (exerciser.config.word(0x4A), first_error(exerciser)) == (NON_FATAL | UNSUPPORTED, 0)


def test_poison(client: FakeClient) -> None:
    exerciser = make(client, *ALL)
    exerciser.region_write(1, 0, b"data")
    inject(exerciser, ErrorInjection.POISON)
    assert exerciser.region_read(1, 0, 4) == b"\xff" * 4
    assert exerciser.region_read(7, 0, 2) == b"\xb5\x13"
    inject(exerciser, 0)
    assert exerciser.region_read(1, 0, 4) == b"data"


@pytest.mark.parametrize("write", [False, True])
def test_each_dma_fails_in_corrupt_dma_mode(client: FakeClient, write: bool) -> None:
    exerciser = make(client, *ALL)
    before = bytes(client.ram)
    exerciser.region_write(1, 0, b"data")
    inject(exerciser, ErrorInjection.CORRUPT_DMA)
    found = dma(exerciser, BASE, 4, write=write)
    assert (found["reason"], found["moved"]) == (DmaReason.INJECTED, 0)
    assert found["dmastatus"] == DmaStatus.INTERNAL
    assert bytes(client.ram) == before
    assert exerciser.region_read(1, 0, 4) == b"data"
    assert exerciser.config.word(0x4A) == 0, "memory detects nothing"
    inject(exerciser, 0)
    assert dma(exerciser, BASE, 4, write=write)["reason"] == 0


def test_peer_detects_the_error_of_a_corrupt_dma(client: FakeClient) -> None:
    """The peer's own severities decide, as they do where the error is injected at once."""
    fabric, aer_too = Fabric(), (OptionalCapability.AER, OptionalCapability.ERROR_INJECTION)
    source, target = (Exerciser(Trace(), capabilities=aer_too, fabric=fabric) for _ in range(2))
    source.attach(client)
    source.region_write(7, 4, b"\x06\x00")
    target.region_write(7, 0x14, struct.pack("<I", 0x4000_0000))
    target.region_write(7, 4, b"\x02\x00")
    start = extended(target.config)[AER]
    write32(target, 7, start + aer.Offset.UNCORRECTABLE_SEVERITY, Uncorrectable.POISONED_TLP)
    inject(source, ErrorInjection.CORRUPT_DMA | 0x0A << 20)
    source.region_write(7, 4, b"\x02\x00")
    assert dma(source, 0x4000_0000, 4, write=True)["reason"] == DmaReason.BUS_MASTER_OFF
    assert target.config.word(0x4A) == 0, "nothing left the device"
    source.region_write(7, 4, b"\x06\x00")
    assert dma(source, 0x4000_0000, 4, write=True)["reason"] == DmaReason.INJECTED
    assert read32(target, 7, start + 4) == Uncorrectable.POISONED_TLP
    assert (source.config.word(0x4A), target.config.word(0x4A)) == (0, FATAL)


def test_vendor_specific() -> None:
    config = ConfigSpace(Identity(1, 2, 3), {})
    start = config.add(VendorSpecific(b"hello"))
    config.write(start, b"\xff" * 8)
    assert config.read(start, 8) == b"\x09\0\x08hello"
    with pytest.raises(ValueError, match="253"):
        VendorSpecific(bytes(253))


@pytest.mark.parametrize("messages", [0, 3, 64])
def test_msi_of_a_number_that_cannot_be(messages: int) -> None:
    with pytest.raises(ValueError, match=f"{messages} MSI"):
        Msi(messages)


def test_msix_pending_bits_off_their_place() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        MsiX(1, 0, 0, 4)
