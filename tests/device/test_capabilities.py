"""The capabilities beside the standard ones: what software may do, what is sticky."""

from __future__ import annotations

import struct

import pytest

from device.endpoints.exerciser import Exerciser
from device.endpoints.parts.capabilities import OptionalCapability
from device.layout import DmaAttribute, DmaCtl, ErrorInjection, Reg
from device.pci import aer
from device.pci.aer import Correctable, Uncorrectable
from device.pci.config import ConfigSpace, ExtendedCapability, Identity
from device.pci.msi import Msi
from device.pci.msix import MsiX
from device.pci.vendor import VendorSpecific
from device.trace import Trace
from tests.device.fakes import BASE, FakeClient, dma, read32, write32

ALL = tuple(OptionalCapability)
AER, ATS, PRI, PASID, DVSEC = 0x0001, 0x000F, 0x0013, 0x001B, 0x0023
FLR = struct.pack("<H", 1 << 15)


def extended(config: ConfigSpace) -> dict[int, int]:
    """Return each extended capability's place by its id."""
    found: dict[int, int] = {}
    place = 0x100
    while place and (header := config.dword(place)):
        assert header & 0xFFFF not in found
        found[header & 0xFFFF] = place
        place = header >> 20
    return found


def make(client: FakeClient, *capabilities: OptionalCapability) -> Exerciser:
    made = Exerciser(Trace(), capabilities=capabilities)
    made.attach(client)
    made.region_write(7, 4, b"\x04\x00")
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


def test_aer_status_is_cleared_by_1_and_outlives_flr(client: FakeClient) -> None:
    exerciser = make(client, OptionalCapability.AER)
    start = extended(exerciser.config)[AER]
    aer.report(exerciser.config, start, Uncorrectable.COMPLETION_TIMEOUT)
    aer.report(exerciser.config, start, Correctable.BAD_TLP)
    status = start + aer.Offset.UNCORRECTABLE_STATUS
    write32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK, Uncorrectable.POISONED_TLP)
    exerciser.region_write(7, 0x48, FLR)
    assert read32(exerciser, 7, status) == Uncorrectable.COMPLETION_TIMEOUT
    mask = read32(exerciser, 7, start + aer.Offset.UNCORRECTABLE_MASK)
    assert mask == Uncorrectable.POISONED_TLP
    write32(exerciser, 7, status, Uncorrectable.POISONED_TLP)
    assert read32(exerciser, 7, status) == Uncorrectable.COMPLETION_TIMEOUT
    write32(exerciser, 7, status, 0xFFFF_FFFF)
    assert read32(exerciser, 7, status) == 0
    assert read32(exerciser, 7, start + aer.Offset.CORRECTABLE_STATUS) == Correctable.BAD_TLP
    exerciser.device_reset()
    assert read32(exerciser, 7, start + aer.Offset.CORRECTABLE_STATUS) == 0


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


@pytest.mark.parametrize(
    ("code", "fatal", "status", "uncorrectable", "correctable"),
    [
        (1, 0, 1, 0, Correctable.BAD_TLP),
        (8, 0, 2, Uncorrectable.DATA_LINK_PROTOCOL, 0),
        (10, ErrorInjection.FATAL, 4, Uncorrectable.POISONED_TLP, 0),
        (0x7FF, 0, 0, 0, 0),
    ],
)
def test_error_injection(
    client: FakeClient, code: int, fatal: int, status: int, uncorrectable: int, correctable: int
) -> None:
    exerciser = make(client, *ALL)
    start = extended(exerciser.config)[AER]
    inject(exerciser, code << 20 | fatal)
    assert exerciser.config.word(0x4A) == 0, "nothing without the trigger"
    inject(exerciser, ErrorInjection.INJECT | code << 20 | fatal)
    assert exerciser.config.word(0x4A) == status
    assert read32(exerciser, 7, start + 4) == uncorrectable
    assert read32(exerciser, 7, start + 0x10) == correctable
    exerciser.region_write(7, 0x4A, b"\x0f\x00")
    assert exerciser.config.word(0x4A) == 0, "Device Status is cleared by 1"


def test_poison_and_corruption(client: FakeClient) -> None:
    exerciser = make(client, *ALL)
    exerciser.region_write(1, 0, b"data")
    inject(exerciser, ErrorInjection.CORRUPT_DMA)
    dma(exerciser, BASE, 4, write=True)
    assert client.ram[:4] == b"eata"
    inject(exerciser, ErrorInjection.POISON)
    assert exerciser.region_read(1, 0, 4) == b"\xff" * 4
    assert exerciser.region_read(7, 0, 2) == b"\xb5\x13"
    inject(exerciser, 0)
    assert exerciser.region_read(1, 0, 4) == b"data"


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
