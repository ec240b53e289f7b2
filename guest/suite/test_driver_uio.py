# SPDX-License-Identifier: Apache-2.0
"""The carve-outs' UIO maps, as users of UIO have them: one for each cache mode."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import WitnessStatus
from dma_rehearsal.guest.iobuffer import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.carveout import LOCKS
from dma_rehearsal.guest.iobuffer.memory.page_locks import PageLocks
from dma_rehearsal.guest.iobuffer.memory.zones import UIO, UIO_PREFIX, Zone, find_zones
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping
from dma_rehearsal.guest.testkit import Attest, CheckFailed, DmaChecker, Patterns, difference
from dma_rehearsal.guest.testkit.board import EFFECTIVE
from dma_rehearsal.guest.testkit.pinning import device_sees, device_stores

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.unprotected,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # a carve-out is above 4 GiB
    pytest.mark.promise("UIO maps"),
]

LENGTH = 2 * PAGE
MAPS = {
    "wb": CacheMode.COPYBACK,
    "wt": CacheMode.WRITE_THRU,
    "wc": CacheMode.WRITE_COMBINE,
    "uc": CacheMode.INHIBIT,
}


def folder(zone: Zone) -> Path:
    """Return the UIO device of a carve-out in sysfs."""
    name = UIO_PREFIX + zone.name
    return next(each for each in UIO.glob("uio*") if (each / "name").read_text().strip() == name)


@contextmanager
def opened(zone: Zone) -> Iterator[int]:
    fd = os.open(Path("/dev") / folder(zone).name, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def free_zones(stack: ExitStack) -> list[Zone]:
    """Return the carve-outs whose first pages nobody has, and keep them until the end."""
    found = []
    for zone in find_zones():
        locks = PageLocks(LOCKS / f"{zone.name}.lock", zone.size // PAGE)
        stack.callback(locks.close)
        if locks.acquire(0, LENGTH // PAGE):
            found.append(zone)
    return found


@pytest.mark.parametrize("name", MAPS)
def test_cpu_and_device_meet_in_each_map(
    bench: DmaChecker, data: Patterns, attest: Attest, name: str
) -> None:
    mode = MAPS[name]
    with ExitStack() as stack:
        zones = free_zones(stack)
        for zone in zones:
            number = list(MAPS).index(name)
            told = folder(zone) / "maps" / f"map{number}"
            place = int((told / "addr").read_text(), 0), int((told / "size").read_text(), 0)
            assert ((told / "name").read_text().strip(), place) == (name, (zone.start, zone.size))
            with opened(zone) as fd:
                mapping = Mapping(fd, LENGTH, number * PAGE)
            with mapping.view() as view:
                sent, received = data.take(LENGTH), data.take(LENGTH)
                view[:] = sent
                device_sees(bench, [(zone.start, LENGTH)], sent)
                device_stores(bench, [(zone.start, LENGTH)], received)
                wrong = difference(received, bytes(view))
            entry = bench.driver.query(mapping.address)
            report = bench.platform.witness(entry.root, mapping.address, LENGTH, entry.levels)
            mapping.close()
            if wrong:
                raise CheckFailed(f"{zone.name}, {name}: the CPU finds other bytes: {wrong}")
            kinds = [run.effective for run in report.runs]
            if report.status is not WitnessStatus.OK or set(kinds) != {EFFECTIVE[mode]}:
                raise CheckFailed(f"{zone.name}, {name}: {report.status.name}, {kinds}")
    attest(
        "UIO maps",
        asked=f"map {name} of each free carve-out: stores of CPU and device, and the mode",
        attested=f"{LENGTH} bytes of {', '.join(zone.name for zone in zones) or 'none'}",
        kept=bool(zones),
        evidence="walk",
    )


def test_what_no_map_has(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """A further map, past the zone's end, a private one, and another mode beside the first."""
    refused = []
    with ExitStack() as stack:
        zone = free_zones(stack)[-1]
        with opened(zone) as fd:

            def refusal(length: int, flags: int, number: int) -> int:
                try:
                    mmap.mmap(fd, length, flags, offset=number * PAGE).close()
                except OSError as error:
                    return error.errno or 0
                return 0

            for length, flags, number in (
                (LENGTH, mmap.MAP_SHARED, len(MAPS)),
                (zone.size + PAGE, mmap.MAP_SHARED, 0),
                (LENGTH, mmap.MAP_PRIVATE, 0),
            ):
                refused.append(refusal(length, flags, number))
            with mmap.mmap(fd, LENGTH, offset=PAGE) as through:
                refused += [refusal(LENGTH, mmap.MAP_SHARED, number) for number in (0, 2, 3)]
                refused.append(refusal(LENGTH, mmap.MAP_SHARED, 1))
                through[:] = content = data.take(LENGTH)
                device_sees(bench, [(zone.start, LENGTH)], content)
    attest(
        "UIO maps",
        asked="no such map, past the end, private: EINVAL; another mode: EBUSY; the same one: yes",
        attested=", ".join(errno.errorcode.get(each, "mapped") for each in refused),
        kept=refused == [errno.EINVAL] * 3 + [errno.EBUSY] * 3 + [0],
    )
