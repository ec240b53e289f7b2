# SPDX-License-Identifier: Apache-2.0
"""Arm's registers: the transaction trace, translations, no-snoop, and what is modelled."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dma_rehearsal.device.layout import (
    RECORD_FIELD_VALID,
    RID_VALID,
    AddressType,
    AtsCtl,
    AtsPerm,
    DmaAttribute,
    DmaCtl,
    DmaReason,
    DmaStatus,
    ExerciserBar,
    Ext,
    Reg,
)
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.exerciser_features import Transaction, monitored, translate
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.config_space import DEVICE_CONTROL, PCI_EXPRESS, word

ATS = 0x000F
ATS_CONTROL, ATS_ENABLE = 0x06, 1 << 15
CACHE_LINE_SIZE = 0x0C
WAIT_S = 5.0
ENABLE_NO_SNOOP = 1 << 11


@pytest.mark.promise("transaction trace")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_accesses_arrive_as_they_were_made(
    device: Exerciser, data: Patterns, attest: Attest, size: int
) -> None:
    """Arm's e022 and e025: writes of 2, 4 and 8 bytes arrive as such."""
    value = int.from_bytes(data.take(size), "little")
    buffer = device.pci.bar(ExerciserBar.BUFFER)
    with monitored(device) as seen:
        buffer.store(64, value, size)
        loaded = buffer.load(64, size)
    address = device.pci.bar_address(ExerciserBar.BUFFER) + 64
    due = [Transaction(read, False, size, address, value) for read in (False, True)]
    attest(
        "transaction trace",
        asked=f"a write and a read of {size} bytes at {address:#x}",
        attested=", ".join(f"{each.size} bytes at {each.address:#x}" for each in seen),
        kept=seen == due and loaded == value,
        reason=f"{seen}",
        evidence="register",
    )


@pytest.mark.promise("transaction trace")
def test_configuration_accesses_arrive(device: Exerciser, attest: Attest) -> None:
    """Arm's e010. The kernel may read configuration space meanwhile; what we did is among it."""
    place = device.pci.capability(PCI_EXPRESS) + DEVICE_CONTROL
    value = device.pci.config_read(place, 2)
    with monitored(device) as seen:
        device.pci.config_write(place, value)
    due = Transaction(False, True, 2, place, int.from_bytes(value, "little"))
    attest(
        "transaction trace",
        asked=f"a write of 2 bytes at {place:#x} of configuration space",
        attested=f"{len(seen)} transactions, {seen.count(due)} of them this one",
        kept=seen.count(due) == 1,
        reason=f"{seen}",
        evidence="register",
    )


@contextmanager
def ats_enabled(device: Exerciser) -> Iterator[None]:
    """Turn the ATS capability on within the ``with``."""
    place = device.pci.extended_capability(ATS) + ATS_CONTROL
    before = device.pci.config_read(place, 2)
    device.pci.config_write(place, struct.pack("<H", ATS_ENABLE))
    try:
        yield
    finally:
        device.control[Reg.ATSCTL] = AtsCtl.CLEAR_ATC
        device.pci.config_write(place, before)


@pytest.mark.unprotected
@pytest.mark.promise("ATS")
def test_dma_by_a_translation(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Modelled: within the range that it covers a DMA is done, a byte beyond it is refused.

    As many as there are aligned where the device's limits do not let it do one more.
    """
    size, few = bench.one_dma(4096), max(8, bench.limits.step)
    device, memory = bench.device, buffer(kIODirectionInOut, 4096, 4096)
    address, content = memory.getPhysicalAddress(), data.take(4096)
    with memory.view() as view:
        view[:] = content
    missing, none = DmaReason.NO_ATC_ENTRY, DmaReason.NONE
    atc: dict[str, Any] = {"write_memory": False, "control": DmaCtl.USE_ATC}
    cold = bench.refused_dma(missing, address, 16, **atc)
    with ats_enabled(device):
        found = translate(device, address)
        end = found.address + found.size
        warm = device.dma(address, size, **atc)
        edge = device.dma(end - few, few, **atc)
        beyond = end - few, few + 1
        if bench.limits.refusal(beyond):
            beyond = end, few
        # Where the translation ends with what the device drives, that is what refuses.
        outside = missing if end + few <= bench.limits.end else DmaReason.ADDRESS_BITS
        past = bench.refused_dma(outside, *beyond, **atc)
        device.control[Reg.ATSCTL] = AtsCtl.CLEAR_ATC
        cleared = bench.refused_dma(missing, address, 16, **atc)
    reasons = [each.reason for each in (cold, warm, edge, past, cleared)]
    covers = found.success and found.address <= address and end >= address + 4096
    attest(
        "ATS",
        asked="a DMA that the translation covers, and others",
        attested=f"{found.size} bytes from {found.address:#x}; "
        + ", ".join(reason.name for reason in reasons),
        kept=covers
        and found.permissions == AtsPerm.READ | AtsPerm.WRITE
        and reasons == [missing, none, none, outside, missing]
        and warm.ok,
    )


@pytest.mark.promise("ATS")
def test_translation_that_permits_no_writes(
    bench: DmaChecker, buffer: MakeBuffer, attest: Attest
) -> None:
    device, memory = bench.device, buffer(kIODirectionInOut, 4096, 4096)
    address = memory.getPhysicalAddress()
    with ats_enabled(device):
        found = translate(device, address, AtsCtl.NO_WRITE)
        read = device.dma(address, 16, write_memory=False, control=DmaCtl.USE_ATC)
        write = bench.refused_dma(
            DmaReason.READ_ONLY, address, 16, write_memory=True, control=DmaCtl.USE_ATC
        )
        nowhere = translate(device, 0x8000_0000)
    attest(
        "ATS",
        asked="no write; and an address without memory",
        attested=f"{found.permissions!r}: {read.reason.name}, {write.reason.name}; "
        f"success {nowhere.success}",
        kept=found.permissions == AtsPerm.READ
        and read.ok
        and write.reason is DmaReason.READ_ONLY
        and not nowhere.success,
    )


def results(device: Exerciser) -> tuple[int, int, int, int]:
    """Return the answer's bits of ATSCTL, the translated address, its bytes and permissions."""
    shown = device.control[Reg.ATSCTL] & (AtsCtl.SUCCESS | AtsCtl.CACHEABLE | AtsCtl.INVALIDATED)
    address = device.control.get64(Reg.ATS_ADDR_LO)
    return shown, address, device.control[Reg.ATS_RANGE_SIZE], device.control[Reg.ATS_PERM]


@pytest.mark.promise("ATS")
def test_cleared_translation_leaves_no_result(
    bench: DmaChecker, buffer: MakeBuffer, attest: Attest
) -> None:
    """Arm's ClearATC drops the translation and the registers that show it."""
    device, memory = bench.device, buffer(kIODirectionInOut, 4096, 4096)
    address = memory.getPhysicalAddress()
    with ats_enabled(device):
        translate(device, address)
        before = results(device)
        used = device.dma(address, 16, write_memory=False, control=DmaCtl.USE_ATC)
        device.control[Reg.ATSCTL] = AtsCtl.CLEAR_ATC
        after = results(device)
    attest(
        "ATS",
        asked="a translation that is used, then none",
        attested=f"{before[2]} bytes, {used.reason.name}; then {after[2]} bytes",
        kept=before[0] == AtsCtl.SUCCESS | AtsCtl.CACHEABLE
        and all(before)
        and used.ok
        and not any(after),
        reason=f"{before}, {after}",
    )


@pytest.mark.promise("ATS")
def test_translation_ends_with_ats(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """PCI Express Base 5.0, 10.5.1.3: a function that is not enabled uses no translation."""
    device, memory = bench.device, buffer(kIODirectionInOut, 4096, 4096)
    address, place = memory.getPhysicalAddress(), device.pci.extended_capability(ATS) + ATS_CONTROL
    by_atc: dict[str, Any] = {"write_memory": False, "control": DmaCtl.USE_ATC}
    with ats_enabled(device):
        translate(device, address)
        enabled = device.dma(address, 16, **by_atc)
        device.pci.config_write(place, bytes(2))
        disabled = bench.refused_dma(DmaReason.NO_ATC_ENTRY, address, 16, **by_atc)
        shown = results(device)
        device.pci.config_write(place, struct.pack("<H", ATS_ENABLE))
        anew = bench.refused_dma(DmaReason.NO_ATC_ENTRY, address, 16, **by_atc)
    attest(
        "ATS",
        asked="a DMA by a translation: enabled, disabled, enabled anew",
        attested=", ".join(each.reason.name for each in (enabled, disabled, anew)),
        kept=enabled.ok
        and disabled.reason is anew.reason is DmaReason.NO_ATC_ENTRY
        and shown == (AtsCtl.INVALIDATED, 0, 0, 0),
        reason=f"{shown}",
    )


@pytest.mark.promise("address type")
def test_address_types(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """3 is reserved, and a translated address excludes the ATC. Another write repairs it."""
    device, memory = bench.device, buffer(kIODirectionInOut, 64)
    address = memory.getPhysicalAddress()
    kinds = [*AddressType, AddressType.UNTRANSLATED]
    controls = [DmaCtl(kind << 10) for kind in kinds]
    controls.append(DmaCtl(AddressType.TRANSLATED << 10) | DmaCtl.USE_ATC)
    with device.expects(DmaReason.RESERVED_ADDRESS_TYPE, count=2):
        records = [
            device.dma(address, 64, write_memory=True, control=control) for control in controls
        ]
    seen = [(each.status, each.reason) for each in records]
    done = (DmaStatus.OK, DmaReason.NONE)
    refused = (DmaStatus.INTERNAL, DmaReason.RESERVED_ADDRESS_TYPE)
    types = [(each.attributes & DmaAttribute.AT_MASK) >> 8 for each in records]
    attest(
        "address type",
        asked="0 to 3, 0 again, 2 with the ATC",
        attested=", ".join(reason.name for _, reason in seen),
        kept=seen == [done, done, done, refused, done, refused] and types == [0, 1, 2, 3, 0, 2],
        reason=f"{seen}, types {types}",
    )


@pytest.mark.promise("registers")
def test_registers_hold_what_is_written(device: Exerciser, attest: Attest) -> None:
    """MSICTL's index is RW; Cache Line Size too, without effect (Base 5.0, 7.5.1.1.7)."""
    seen = []
    line = device.pci.config_read(CACHE_LINE_SIZE, 1)
    with device.eventfd(0) as vector:
        try:
            for value in 3, 0:
                device.write_register(Reg.MSICTL, value)
                device.pci.config_write(CACHE_LINE_SIZE, bytes((value,)))
                found = device.pci.config_read(CACHE_LINE_SIZE, 1)[0]
                seen.append((value, device.read_register(Reg.MSICTL), found))
        finally:
            device.pci.config_write(CACHE_LINE_SIZE, line)
        without = vector.wait(0)
        device.interrupt(0)
        with_trigger = vector.wait(WAIT_S)
    attest(
        "registers",
        asked="3 and 0 in MSICTL and in Cache Line Size, without the trigger and with it",
        attested=", ".join(f"{index} and {size}" for _, index, size in seen)
        + f"; {without} and {with_trigger} interrupts",
        kept=all(value == index == size for value, index, size in seen)
        and (without, with_trigger) == (0, 1),
        evidence="interrupt",
    )


@pytest.mark.coherence
@pytest.mark.promise("no-snoop")
def test_no_snoop_needs_its_enable(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """PCI Express Base 5.0, 7.5.3.4: with Enable No Snoop clear the access is snooped."""
    device, memory = bench.device, buffer(kIODirectionInOut, 64)
    place = device.pci.capability(PCI_EXPRESS) + DEVICE_CONTROL
    before = word(device.pci, place)
    seen = []
    try:
        for control in before | ENABLE_NO_SNOOP, before & ~ENABLE_NO_SNOOP:
            device.pci.config_write(place, struct.pack("<H", control))
            record = device.dma(memory.getPhysicalAddress(), 64, write_memory=True, no_snoop=True)
            seen.append(record.attributes & ~DmaAttribute.NON_COHERENT)
    finally:
        device.pci.config_write(place, struct.pack("<H", before))
    asked = DmaAttribute.NO_SNOOP_ASKED
    attest(
        "no-snoop",
        asked="enabled, and not",
        attested=", ".join(f"{each!r}" for each in seen),
        kept=seen == [asked | DmaAttribute.NO_SNOOP, asked],
    )


@pytest.mark.promise("requester id")
def test_requester_id_and_pasid_are_modelled(
    bench: DmaChecker, buffer: MakeBuffer, attest: Attest
) -> None:
    """Without its optional PASID capability the device sends requests without a PASID."""
    device, memory = bench.device, buffer(kIODirectionInOut, 64)
    address = memory.getPhysicalAddress()
    device.write_register(Reg.PASID_VAL, 0x12345)
    seen = []
    try:
        for rid in 0, RID_VALID | 0x1234:
            device.write_register(Reg.RID_CTL, rid)
            device.dma(address, 64, write_memory=True, control=DmaCtl.PASID)
            extension = device.extension
            seen.append((extension[Ext.RECORD_REQUESTER_ID], extension[Ext.RECORD_PASID]))
    finally:
        device.write_register(Reg.RID_CTL, 0)
    attest(
        "requester id",
        asked="its own, then 0x1234",
        attested=", ".join(f"{rid:#x}" for rid, _ in seen),
        kept=seen == [(0, 0), (RECORD_FIELD_VALID | 0x1234, 0)],
        reason=f"{seen}",
    )
