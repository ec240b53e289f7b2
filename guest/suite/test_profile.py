# SPDX-License-Identifier: Apache-2.0
"""The device's own profile: it is the one that was announced, and holds to its limits and times."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from dma_rehearsal.device.layout import DmaAttribute, DmaReason, Ext
from dma_rehearsal.guest.drivers.device_limits import NONE
from dma_rehearsal.guest.iobuffer import kIODirectionInOut, kIOMapCopybackCache
from dma_rehearsal.guest.linux.kernel_cmdline import device_parameters
from dma_rehearsal.guest.testkit import (
    Attest,
    DmaChecker,
    MakeBuffer,
    NonCoherent,
    Patterns,
    difference,
)


@pytest.mark.coherence
@pytest.mark.promise("profile")
def test_profile_is_the_announced_one(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    due = device_parameters()
    if due.profile is None:
        attest.unattested(
            "profile", asked="a profile", reason="the kernel's command line announces none"
        )
        return
    device = bench.device
    vendor, identity = (
        int.from_bytes(device.pci.config_read(at, 2), "little") for at in (0x00, 0x02)
    )
    checksum = device.extension[Ext.PROFILE_CRC32]
    size = bench.one_dma(4096)
    seen = bench.device_reads(buffer(kIODirectionInOut, size), data.take(size))
    attest(
        "profile",
        asked=f"{due.vendor:04x}:{due.device:04x}, checksum {due.profile:#010x}",
        attested=f"{vendor:04x}:{identity:04x}, checksum {checksum:#010x}; {seen}",
        kept=(vendor, identity, checksum) == (due.vendor, due.device, due.profile),
    )


@pytest.mark.coherence
@pytest.mark.iommu_too
@pytest.mark.promise("coherence")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_coherence_is_the_announced_one(
    bench: DmaChecker, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    """The device says of each DMA whether caches followed it; asking for no snoop alters nothing.

    (PCI Express Base 5.0, 2.2.6.5: No Snoop is a hint to a system whose hardware is coherent.)
    """
    due = device_parameters().coherent
    size = bench.one_dma(bench.fits(64))
    bench.load(data.take(size))
    address = bench.staging.getPhysicalAddress()
    seen = [
        DmaAttribute.NON_COHERENT not in record.attributes
        for no_snoop in (False, True)
        if (record := bench.dma(address, size, write_memory=write_memory, no_snoop=no_snoop))
    ]
    attest(
        "coherence",
        asked="caches follow its DMA" if due else "no cache follows its DMA",
        attested=", ".join("coherent" if each else "not coherent" for each in seen),
        kept=seen == [due, due] and bench.limits.coherent is due,
        reason=f"its register says coherent = {bench.limits.coherent}",
    )


@pytest.mark.coherence
@pytest.mark.promise("coherence")
def test_sync_forgotten_shows_where_the_device_is_not_coherent(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Ordinary DMA, which asks for nothing: without its sync it meets the bytes in memory."""
    coherent = device_parameters().coherent
    size = noncoherent.bench.one_dma(noncoherent.bench.fits(256))
    old, new, later = (data.take(size) for _ in range(3))
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, size)
    memory.writeBytes(0, old)
    memory.sync_for_device()
    memory.writeBytes(0, new)
    forgotten = noncoherent.reads(memory, 0, size, no_snoop=False)
    memory.sync_for_device()
    synced = noncoherent.reads(memory, 0, size, no_snoop=False)
    noncoherent.writes(memory, 0, later, no_snoop=False)
    stale = memory.readBytes(0, size)
    memory.sync_for_cpu()
    received = memory.readBytes(0, size)
    due = [new if coherent else old, new, later if coherent else new, later]
    names = {old: "old bytes", new: "new bytes", later: "the device's bytes"}
    seen = [names.get(each, "other bytes") for each in (forgotten, synced, stale, received)]
    attest(
        "coherence",
        asked=f"{'a' if coherent else 'no'} cache follows its DMA: store, read, sync, read; "
        "write, load, sync, load",
        attested=", ".join(seen),
        kept=[forgotten, synced, stale, received] == due,
        reason=f"due: {', '.join(names[each] for each in due)}; seen: {', '.join(seen)}",
    )


@pytest.mark.iommu_too
@pytest.mark.promise("constraints")
@pytest.mark.unprotected
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_own_limits_are_strict(
    bench: DmaChecker, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    """Just beyond each of the profile's limits nothing moves. A sloppy device fails here."""
    limits, room = bench.limits, bench.device.buffer_size
    base, size = bench.staging.getPhysicalAddress(), bench.staging.getLength()
    step = limits.step
    edge = -(-(base + 1) // limits.boundary) * limits.boundary - step
    aims = {
        "address bits": (limits.end, step, limits.address_bits < 64),
        "alignment": (base + limits.alignment // 2, step, limits.alignment > 1),
        "length alignment": (base, limits.length_alignment // 2, limits.length_alignment > 1),
        "maximum segment": (base, limits.max_segment + step, limits.max_segment < room),
        "boundary": (edge, 2 * step, limits.boundary < NONE),
        "maximum transfer": (base, limits.max_transfer + step, limits.max_transfer < room),
    }
    aims = {name: aim for name, aim in aims.items() if aim[2]}
    inside = data.take(bench.one_dma(4096))
    bench.load(inside)
    outside = bench.staging.readBytes(0, size)
    due = {name: limits.refusal(aim[:2]) for name, aim in aims.items()}
    refused = nullcontext() if limits.sloppy or not due else bench.device.expects(*due.values())
    with refused:
        records = {
            name: bench.device.dma(address, length, write_memory=write_memory)
            for name, (address, length, _) in aims.items()
        }
    wrong = difference(outside, bench.staging.readBytes(0, size))
    wrong = wrong or difference(inside, bench.stored(len(inside)))
    passed = [
        f"{name}: {record.reason.name}, {record.moved} bytes moved at {record.used or 0:#x}"
        for name, record in records.items()
        if record.ok or record.moved or record.reason is DmaReason.NONE
    ]
    attest(
        "constraints",
        asked=f"{', '.join(aims) or 'none'} of its own: refused beyond",
        attested=", ".join(dict.fromkeys(each.reason.name for each in records.values()))
        or f"no limits; {len(inside)} bytes",
        kept=not passed and not wrong and {n: r.reason for n, r in records.items()} == due,
        reason="; ".join(passed) or wrong,
    )


@pytest.mark.promise("modelled time")
@pytest.mark.parametrize("size", [64, 4096])
def test_modelled_time(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    """The record has the time that the user's device would take: latency, and bytes by rate."""
    size = bench.one_dma(size)
    memory, extension = buffer(kIODirectionInOut, size, 4096), bench.device.extension
    with memory.view() as view:
        view[:] = data.take(size)
    bench.dma(memory.getPhysicalAddress(), size, write_memory=False)
    seen = extension.get64(Ext.RECORD_TIME_LO)
    latency, rate = extension[Ext.LATENCY_NS], extension[Ext.BANDWIDTH_MB_S]
    due = latency + (-(-size * 1000 // rate) if rate else 0)
    attest(
        "modelled time",
        asked=f"{size} bytes: {latency} ns and {rate or 'unlimited'} MB/s",
        attested=f"{seen} ns",
        kept=seen == due,
        reason=f"{due} ns are due",
    )
