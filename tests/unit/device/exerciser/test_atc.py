# SPDX-License-Identifier: Apache-2.0
"""ATS as it is modelled: requests, the one-entry cache, and what a DMA by it needs."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import AddressType, AtsCtl, AtsPerm, DmaCtl, DmaReason, Reg
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, READ_ONLY_BASE, FakeClient, dma, read32, write32
from tests.unit.device.pci.capability_list import ATS, PASID, extended

DONE = AtsCtl.SUCCESS | AtsCtl.CACHEABLE
RESULT = DONE | AtsCtl.INVALIDATED | AtsCtl.IN_FLIGHT


@pytest.fixture(autouse=True)
def _enabled(exerciser: Exerciser) -> None:
    place = extended(exerciser.config)[ATS]
    exerciser.region_write(7, place + 6, struct.pack("<H", 1 << 15))


def request(exerciser: Exerciser, address: int, control: int = 0) -> tuple[int, int, int, int]:
    """Ask for a translation; return result, address, size and permissions."""
    write32(exerciser, 0, Reg.DMA_BUS_ADDR_LO, address)
    write32(exerciser, 0, Reg.DMA_BUS_ADDR_HI, address >> 32)
    write32(exerciser, 0, Reg.ATSCTL, AtsCtl.TRIGGER | control)
    result, *rest = shown(exerciser)
    return (result & RESULT, *rest)  # type: ignore[return-value]


def shown(exerciser: Exerciser) -> tuple[int, ...]:
    """Return what ATSCTL and the result registers hold."""
    registers = (Reg.ATSCTL, Reg.ATS_ADDR_LO, Reg.ATS_RANGE_SIZE, Reg.ATS_PERM)
    return tuple(read32(exerciser, 0, each) for each in registers)


def by_atc(exerciser: Exerciser, address: int, length: int, *, write: bool = False) -> int:
    return dma(exerciser, address, length, write=write, control=DmaCtl.USE_ATC)["reason"]


def test_translation_covers_what_is_mapped_alike(exerciser: Exerciser) -> None:
    both = AtsPerm.READ | AtsPerm.WRITE
    assert request(exerciser, BASE + 0x12345) == (DONE, BASE, 0x4_0000, both)
    assert request(exerciser, READ_ONLY_BASE + 5) == (DONE, READ_ONLY_BASE, 0x1000, AtsPerm.READ)
    found = request(exerciser, BASE, AtsCtl.NO_WRITE | AtsCtl.EXECUTE)
    assert found[3] == AtsPerm.READ, "execute needs a PASID"


def test_execute_and_privileged_need_a_pasid_that_is_enabled(client: FakeClient) -> None:
    made = Exerciser(Trace(), capabilities=tuple(OptionalCapability))
    made.attach(client)
    found = extended(made.config)
    made.region_write(7, 4, b"\x06\x00")
    made.region_write(7, found[ATS] + 6, struct.pack("<H", 1 << 15))
    asked = AtsCtl.PASID | AtsCtl.EXECUTE | AtsCtl.PRIVILEGED
    assert request(made, BASE, asked)[3] == AtsPerm.READ | AtsPerm.WRITE
    made.region_write(7, found[PASID] + 6, b"\x07\x00")
    assert request(made, BASE, asked)[3] == sum(AtsPerm)


def test_translation_is_of_its_address_space(client: FakeClient) -> None:
    made = Exerciser(Trace(), capabilities=tuple(OptionalCapability))
    made.attach(client)
    found = extended(made.config)
    made.region_write(7, 4, b"\x06\x00")
    made.region_write(7, found[PASID] + 6, b"\x07\x00")
    made.region_write(7, found[ATS] + 6, struct.pack("<H", 1 << 15))
    write32(made, 0, Reg.PASID_VAL, 5)
    request(made, BASE, AtsCtl.PASID)
    of_5 = DmaCtl.USE_ATC | DmaCtl.PASID
    assert dma(made, BASE, 4, write=True, control=of_5)["reason"] == 0
    assert by_atc(made, BASE, 4) == DmaReason.NO_ATC_ENTRY
    write32(made, 0, Reg.PASID_VAL, 6)
    assert dma(made, BASE, 4, write=True, control=of_5)["reason"] == DmaReason.NO_ATC_ENTRY


@pytest.mark.parametrize("address", [0, 0x4000_0000, (1 << 64) - 1])
def test_no_translation(exerciser: Exerciser, address: int) -> None:
    assert request(exerciser, address) == (0, 0, 0, 0)
    assert by_atc(exerciser, address, 1) == DmaReason.NO_ATC_ENTRY


def test_dma_must_lie_within_the_entry(exerciser: Exerciser, client: FakeClient) -> None:
    client.ram[:4] = b"data"
    request(exerciser, BASE)
    assert by_atc(exerciser, BASE, 4) == 0
    assert exerciser.region_read(1, 0, 4) == b"data"
    assert exerciser.bus.transactions[-1].attributes.address_type is AddressType.TRANSLATED
    assert by_atc(exerciser, BASE + 0x4_0000 - 4, 4) == 0
    assert by_atc(exerciser, BASE + 0x4_0000 - 4, 5) == DmaReason.NO_ATC_ENTRY
    assert by_atc(exerciser, BASE - 1, 4) == DmaReason.NO_ATC_ENTRY


def test_entry_permits_what_it_says(exerciser: Exerciser) -> None:
    request(exerciser, BASE, AtsCtl.NO_WRITE)
    assert by_atc(exerciser, BASE, 4) == 0
    assert by_atc(exerciser, BASE, 4, write=True) == DmaReason.READ_ONLY


def test_cache_is_cleared_by_software_and_by_resets(exerciser: Exerciser) -> None:
    request(exerciser, BASE, AtsCtl.NO_WRITE)
    write32(exerciser, 0, Reg.ATSCTL, AtsCtl.CLEAR_ATC)
    assert shown(exerciser) == (0, 0, 0, 0), "the results are cleared, too"
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY
    request(exerciser, BASE)
    exerciser.region_write(7, 0x48, struct.pack("<H", 1 << 15))
    exerciser.region_write(7, 4, b"\x06\x00")
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY


@pytest.mark.parametrize(
    ("address", "length", "invalidated"),
    [
        (BASE, 0x1000, True),
        (BASE + 0x3_F000, 0x1000, True),
        (0, 1 << 64, True),
        (BASE - 0x1000, 0x1000, False),
        (BASE + 0x4_0000, 0x1000, False),
    ],
)
def test_unmap_invalidates(
    exerciser: Exerciser, address: int, length: int, invalidated: bool
) -> None:
    request(exerciser, BASE)
    exerciser.unmapped(address, length)
    result = read32(exerciser, 0, Reg.ATSCTL) & RESULT
    assert result == (AtsCtl.INVALIDATED if invalidated else DONE)
    assert read32(exerciser, 0, Reg.ATS_RANGE_SIZE) == (0 if invalidated else 0x4_0000)
    assert by_atc(exerciser, BASE, 4) == (DmaReason.NO_ATC_ENTRY if invalidated else 0)


def test_a_client_that_leaves_takes_its_translations_along(exerciser: Exerciser) -> None:
    request(exerciser, BASE)
    exerciser.detach()
    exerciser.attach(FakeClient())
    assert read32(exerciser, 0, Reg.ATSCTL) & RESULT == AtsCtl.INVALIDATED
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY


def test_no_request_without_the_capabilitys_enable(exerciser: Exerciser) -> None:
    place = extended(exerciser.config)[ATS]
    exerciser.region_write(7, place + 6, b"\0\0")
    assert request(exerciser, BASE)[0] == 0


def test_translation_ends_when_ats_is_disabled(exerciser: Exerciser) -> None:
    place = extended(exerciser.config)[ATS]
    request(exerciser, BASE)
    exerciser.region_write(7, place + 6, struct.pack("<H", 1 << 15 | 1))
    assert by_atc(exerciser, BASE, 4) == 0, "it is enabled as before"
    exerciser.region_write(7, place + 6, b"\0\0")
    assert shown(exerciser) == (AtsCtl.INVALIDATED, 0, 0, 0)
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY
    exerciser.region_write(7, place + 6, struct.pack("<H", 1 << 15))
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY, "enabled anew, none is left"


def test_no_translated_request_while_ats_is_disabled(exerciser: Exerciser) -> None:
    """As a fault of the capability's hook would leave the entry: Enable is asked for each DMA."""
    place = extended(exerciser.config)[ATS]
    request(exerciser, BASE)
    exerciser.config.set_word(place + 6, 0)
    assert by_atc(exerciser, BASE, 4) == DmaReason.NO_ATC_ENTRY
    translated = dma(exerciser, BASE, 4, write=True, control=AddressType.TRANSLATED << 10)
    assert translated["reason"] == 0, "Arm's exerciser sends what it is given as translated"


def test_address_type_is_written_whole(exerciser: Exerciser) -> None:
    """Arm's drivers only ever or it in; writing the register whole must take it back."""
    found = dma(exerciser, BASE, 4, write=True, control=AddressType.TRANSLATED << 10)
    assert found["attributes"] == AddressType.TRANSLATED << 8
    assert dma(exerciser, BASE, 4, write=True)["attributes"] == 0
