# SPDX-License-Identifier: Apache-2.0
"""The platform's mailbox, as a kernel driver's mappings use it; and a board that snoops nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.device.layout.mailbox import (
    MAIL_OWNER_BASE,
    MAIL_TAG_BASE,
    DmaCall,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.drivers.platform.mailbox_unit import MailError
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionInOut,
    kIODirectionOut,
)
from dma_rehearsal.guest.iobuffer.base.coherence import CoherentBus
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.testkit import (
    Attest,
    DmaChecker,
    Guarded,
    MakeBuffer,
    NonCoherent,
    Patterns,
)
from dma_rehearsal.guest.testkit.board import Board
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal
from dma_rehearsal.guest.testkit.guarded import OUT
from dma_rehearsal.guest.testkit.noncoherent import LINE, make_owned_by_device, name_bytes

pytestmark = pytest.mark.any_device

PROMISE = "mailbox"
SNOOP = "board snoop"
TAG = MAIL_TAG_BASE + 0x7E57
LENGTH = 4 * LINE
Send = Callable[..., None]


@pytest.fixture
def send(bench: Board, platform: PlatformDevice) -> Iterator[Send]:
    """Send batches of records, which lie in a page of their own.

    The platform is not behind the device's IOMMU: it needs the page's physical address.
    """
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionOut, PAGE, PAGE
    ) as batch:
        place = bench.witness_range(batch.address, PAGE)[0].physical

        def sent(*records: MailRecord) -> None:
            batch.writeBytes(0, b"".join(each.pack() for each in records))
            platform.mailbox.send(place, records)

        yield sent


def about(command: MailCommand, **fields: Any) -> MailRecord:
    """Return a record about the one mapping of a test."""
    return MailRecord(command, tag=TAG, **fields)


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise(PROMISE)
def test_grant_holds_until_its_withdrawal(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, send: Send
) -> None:
    bench, unit = guarded.bench, guarded.unit
    memory, owner = buffer(kIODirectionInOut, 3 * PAGE, PAGE), MAIL_OWNER_BASE | TAG
    address = memory.getPhysicalAddress() + PAGE
    near = guarded.grant(address + LENGTH, LENGTH, OUT)
    bench.load(data.take(LENGTH))
    send(about(MailCommand.GRANT, address=address, length=LENGTH, direction=int(OUT)))
    owned = owner in unit.owners()
    seen = bench.dma(address, LENGTH, write_memory=False)
    send(about(MailCommand.WITHDRAW))
    guarded.denied(
        *(address, LENGTH),
        write=False,
        reason=DmaReason.PROTECTION_OUTSIDE,
        byte=address,
        nearest=near,
    )
    attest(
        PROMISE,
        asked=f"GRANT of {LENGTH} bytes, and WITHDRAW",
        attested=f"{seen.moved} bytes read; then denied",
        kept=seen.ok and owned and owner not in unit.owners(),
        evidence="refusal",
    )


@pytest.mark.promise(PROMISE)
def test_track_and_sync(
    noncoherent: NonCoherent, buffer: MakeBuffer, data: Patterns, attest: Attest, send: Send
) -> None:
    """A store reaches the device by SYNC_FOR_DEVICE, as a kernel driver's does."""
    old, new = data.take(LENGTH), data.take(LENGTH)
    coherence, dma_platform.coherence = dma_platform.coherence, CoherentBus()
    try:
        memory = buffer(kIODirectionInOut, LENGTH, PAGE)  # tracked by nobody
    finally:
        dma_platform.coherence = coherence
    memory.writeBytes(0, old)
    entry = noncoherent.bench.driver.query(memory.address)
    where = {"virtual": memory.address, "root": entry.root, "levels": entry.levels}
    track = about(
        MailCommand.TRACK,
        address=memory.getPhysicalAddress(),
        length=LENGTH,
        direction=int(kIODirectionInOut),
        **where,
    )
    sync = about(MailCommand.SYNC_FOR_DEVICE, length=LENGTH)
    send(track, sync)
    first = name_bytes(noncoherent.reads(memory, 0, LENGTH), old, new)
    send(about(MailCommand.SYNC_FOR_CPU, length=LENGTH))
    memory.writeBytes(0, new)
    second = name_bytes(noncoherent.reads(memory, 0, LENGTH), old, new)
    send(sync)
    third = name_bytes(noncoherent.reads(memory, 0, LENGTH), old, new)
    send(about(MailCommand.SYNC_FOR_CPU, length=LENGTH), about(MailCommand.UNTRACK))
    attest(
        PROMISE,
        asked="TRACK, and a store before and after SYNC_FOR_DEVICE",
        attested=f"{first}; {second}; {third}",
        kept=(first, second, third) == ("old bytes", "old bytes", "new bytes"),
        evidence="cache",
    )


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise(PROMISE)
def test_first_that_fails_ends_the_batch(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, send: Send
) -> None:
    bench, memory = guarded.bench, buffer(kIODirectionInOut, PAGE, PAGE)
    address, count = memory.getPhysicalAddress(), guarded.unit.grant_count
    bench.load(data.take(LENGTH))
    grant = about(MailCommand.GRANT, address=address, length=LENGTH, direction=int(OUT))
    with pytest.raises(MailError) as failed:
        send(grant, about(MailCommand.GRANT, length=1), grant)
    seen = bench.dma(address, LENGTH, write_memory=False)
    send(about(MailCommand.WITHDRAW))
    error = failed.value
    attest(
        PROMISE,
        asked="three records, of which the second has no direction",
        attested=f"{error.status.name} at {error.position}; {seen.moved} bytes by the first",
        kept=(error.status, error.position) == (MailStatus.BAD_DIRECTION, 1)
        and seen.ok
        and guarded.unit.grant_count == count,
        evidence="bytes",
    )


@pytest.mark.promise(PROMISE)
def test_report_reaches_the_host(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    driver: DriverRehearsal,
    send: Send,
) -> None:
    """The host finds the report in the trace, where this test announced it."""
    kind, size = DriverReportKind.MASK_NEVER_SET, bench.one_dma(LENGTH)
    memory = buffer(kIODirectionInOut, size)
    with driver.expects(kind, count=1):
        send(MailRecord(MailCommand.REPORT, call=DmaCall.MAP_PAGE, kind=kind))
    attest(
        PROMISE,
        asked=f"REPORT {kind.name}",
        attested=f"sent; {bench.device_reads(memory, data.take(size))}",
        kept=True,
        evidence="bytes",
    )


@pytest.mark.promise(SNOOP)
@pytest.mark.parametrize("snoops", [True, False], ids=["snoops", "snoops nothing"])
def test_board_that_snoops_nothing(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, platform: PlatformDevice, snoops: bool
) -> None:
    """A request that asks for a snoop gets it on a board that snoops."""
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make_owned_by_device(noncoherent, CacheMode.COPYBACK, kIODirectionInOut, old)
    memory.sync_for_cpu()
    memory.writeBytes(0, new)
    bench, address = noncoherent.bench, memory.getPhysicalAddress()
    platform.board.snooped = snoops
    try:
        bench.dma(address, LENGTH, write_memory=False)
    finally:
        platform.board.snooped = True
    seen = name_bytes(bench.stored(LENGTH), old, new)
    memory.sync_for_device()
    due = "new bytes" if snoops and noncoherent.board.limits.coherent else "old bytes"
    attest(
        SNOOP,
        asked=f"BOARD_SNOOP {int(snoops)}: a store, and a read that asks for a snoop: {due}",
        attested=seen,
        kept=seen == due,
        reason=f"the device reads {seen}",
        evidence="cache",
    )
