# SPDX-License-Identifier: Apache-2.0
"""createMappingInTask: kinds of mappings, what they share, what they keep apart."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOMapWarning,
    IOReturn,
    current_task,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapAnywhere,
    kIOMapGuardedLarge,
    kIOMapGuardedSmall,
    kIOMapInhibitCache,
    kIOMapPrefault,
    kIOMapReadOnly,
    kIOMapReference,
    kIOMapUnique,
    kIOMemoryKernelUserShared,
    kIOMemoryMapCopyOnWrite,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns, difference
from dma_rehearsal.guest.testkit.buffers import code_of

pytestmark = pytest.mark.any_device

MAPPING = "createMappingInTask"
UNIQUE = kIOMapAnywhere | kIOMapUnique
_libc = ctypes.CDLL(None, use_errno=True)


def can_load(address: int) -> bool:
    """Whether this process can load a byte; asked of the kernel, which says EFAULT.

    A fork could not tell: it does not have what the driver maps.
    """
    reader, writer = os.pipe()
    try:
        return bool(_libc.write(writer, ctypes.c_void_p(address), 1) == 1)
    finally:
        os.close(reader)
        os.close(writer)


def can_store(address: int) -> bool:
    """Whether this process can store a byte; if so, it is 0 then."""
    reader, writer = os.pipe()
    try:
        os.write(writer, bytes(1))
        return bool(_libc.read(reader, ctypes.c_void_p(address), 1) == 1)
    finally:
        os.close(reader)
        os.close(writer)


def minor_faults() -> int:
    return int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[7])


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.promise(MAPPING)
@pytest.mark.parametrize("kind", ["wired", pytest.param("pageable", marks=pytest.mark.kernel)])
def test_a_second_mapping_is_the_same_memory(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """Any part, at any offset, through another address; the device sees what is stored there."""
    pageable = int(kIOMemoryPageable) if kind == "pageable" else 0
    memory = buffer(kIODirectionInOut | pageable, 3 * PAGE + 50, PAGE)
    memory.prepare()
    content = bytearray(data.take(memory.getLength()))
    memory.writeBytes(0, bytes(content))
    wrong = []
    for offset, length in (0, 0), (5, 77), (PAGE - 1, 2), (2 * PAGE, PAGE + 50):
        with memory.createMappingInTask(current_task(), 0, UNIQUE, offset, length) as again:
            size = again.getLength()
            apart = again.getVirtualAddress() != memory.address + offset
            with again.view() as view:
                wrong.append(difference(bytes(content[offset : offset + size]), bytes(view)))
                view[:] = content[offset : offset + size] = data.take(size)
            if not apart:
                wrong.append(f"offset {offset}: the address of the first mapping")
    seen = bench.device_sees(memory, bytes(content))
    memory.complete()
    attest(
        MAPPING,
        asked=f"{kind}: four parts, each at a second address",
        attested=f"{seen}",
        kept=not any(wrong),
        reason="; ".join(filter(None, wrong)),
    )


@pytest.mark.promise(MAPPING)
def test_compatible_mappings_are_shared(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut, 8192, PAGE)
    task = current_task()
    reference = code_of(memory.createMappingInTask, task, 0, kIOMapAnywhere | kIOMapReference)
    first = memory.createMappingInTask(task)
    second = memory.createMappingInTask(task)
    referred = memory.createMappingInTask(task, 0, kIOMapAnywhere | kIOMapReference)
    unique = memory.createMappingInTask(task, 0, UNIQUE)
    addresses = [each.getVirtualAddress() for each in (first, second, referred, unique)]
    own = memory.address
    for each in (first, second, unique):
        each.unmap()
    still = not referred.unmapped
    busy = code_of(memory.release)
    referred.unmap()
    seen = bench.device_reads(memory, data.take(8192))
    attest(
        MAPPING,
        asked="the same again, by reference, and Unique",
        attested=f"the first three at the buffer's own {own:#x}: {addresses[:3] == [own] * 3}; "
        f"release with one left: {busy.name}; {seen}",
        kept=addresses[:3] == [own] * 3
        and addresses[3] != own
        and still
        and busy is IOReturn.kIOReturnBusy
        and reference is IOReturn.kIOReturnNotAttached,
        reason=f"addresses {[hex(each) for each in addresses]}; reference {reference.name}",
    )


@pytest.mark.promise(MAPPING)
def test_read_only_and_copy_on_write(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """As in xnu's test: a read-only map sees the source change, a copy-on-write map does not."""
    memory = buffer(kIODirectionInOut, 8192, PAGE)
    old = data.take(8192)
    memory.writeBytes(0, old)
    task = current_task()
    looking = memory.createMappingInTask(task, 0, UNIQUE | kIOMapReadOnly)
    copy = memory.createMappingInTask(task, 0, UNIQUE | kIOMemoryMapCopyOnWrite)
    new = data.take(8192)
    bench.device_writes(memory, new)
    place = looking.getVirtualAddress()
    with looking.view() as view, copy.view() as copied:
        sees, keeps = bytes(view) == new, bytes(copied) == old
        copied[0] ^= 0xFF
    loads, refused = can_load(place), not can_store(place)
    seen = bench.device_sees(memory, new)
    looking.unmap()
    copy.unmap()
    attest(
        MAPPING,
        asked="read-only and copy-on-write, then the device writes",
        attested=f"read-only sees it: {sees}, the copy keeps the old bytes: {keeps}; {seen}",
        kept=sees and keeps and loads and refused,
        reason=f"the read-only mapping: loads {loads}, refuses a store {refused}",
    )


@pytest.mark.promise(MAPPING)
@pytest.mark.parametrize("option", [kIOMapGuardedSmall, kIOMapGuardedLarge], ids=["small", "large"])
def test_guards(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, option: int
) -> None:
    memory = buffer(kIODirectionInOut, 2 * PAGE, PAGE)
    content = data.take(2 * PAGE)
    seen = bench.device_writes(memory, content)
    guarded = memory.createMappingInTask(current_task(), 0, UNIQUE | option)
    start, end = guarded.getVirtualAddress(), guarded.getVirtualAddress() + guarded.getLength()
    with guarded.view() as view:
        wrong = difference(content, bytes(view))
    before, behind = not can_load(start - 1), not can_load(end)
    guarded.unmap()
    attest(
        MAPPING,
        asked=f"guarded: {kIOMapGuardedSmall.__class__(option).name}",
        attested=f"faults before: {before}, behind: {behind}; {seen}",
        kept=before and behind and not wrong and end - start == 2 * PAGE,
        reason=wrong,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise(MAPPING)
def test_prefault(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """As in xnu's test: after prepare, a mapping with Prefault is read without a fault."""
    size = 256 * PAGE
    memory = buffer(kIODirectionInOut | kIOMemoryPageable, size)
    early = code_of(memory.createMappingInTask, current_task(), 0, UNIQUE | kIOMapPrefault)
    memory.prepare()
    seen = bench.device_reads(memory, data.take(size))
    counts = []
    for option in 0, int(kIOMapPrefault):
        with memory.createMappingInTask(current_task(), 0, UNIQUE | option) as mapped:
            place = mapped.getVirtualAddress()
            before = minor_faults()
            for page in range(256):
                ctypes.string_at(place + page * PAGE, 1)
            counts.append(minor_faults() - before)
    memory.complete()
    attest(
        MAPPING,
        asked="kIOMapPrefault on 256 pages",
        attested=f"{counts[1]} page faults, {counts[0]} without it; before prepare: {early.name}; "
        f"{seen}",
        kept=counts[1] < 8 < counts[0] and early is IOReturn.kIOReturnNotReady,
    )


@pytest.mark.promise(MAPPING)
@pytest.mark.parametrize(
    "sharing", [0, pytest.param(int(kIOMemoryKernelUserShared), marks=pytest.mark.kernel)]
)
def test_length_follows_capacity(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, sharing: int
) -> None:
    """As in xnu's test: 0x4000 bytes, shared, mapped at length 0x100 and again at 0x200."""
    memory = buffer(kIODirectionInOut | sharing, 0x4000, 0x4000)
    content = data.take(0x4000)
    seen = bench.device_reads(memory, content)
    lengths = []
    for length in 0x100, 0x200:
        memory.setLength(length)
        with memory.createMappingInTask(current_task(), 0, UNIQUE) as mapped, mapped.view() as view:
            lengths.append((mapped.getLength(), bytes(view) == content[:length]))
    with memory.createMappingInTask(current_task(), 0, UNIQUE, 0x200, 0x3E00) as rest:
        lengths.append((rest.getLength(), rest.offset == 0x200))
    past = code_of(memory.createMappingInTask, current_task(), 0, UNIQUE, 0x200, 0x3E01)
    attest(
        MAPPING,
        asked="lengths 0x100, 0x200, and the capacity's rest",
        attested=f"{[hex(length) for length, _ in lengths]}; one byte more: {past.name}; {seen}",
        kept=lengths == [(0x100, True), (0x200, True), (0x3E00, True)]
        and past is IOReturn.kIOReturnBadArgument,
    )


@pytest.mark.promise(MAPPING)
def test_refusals_and_warnings(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Another cache mode, a range that is not the buffer's, overwriting; a writable map of Out."""
    memory = buffer(kIODirectionOut, 8192, PAGE)
    task = current_task()
    make = memory.createMappingInTask
    busy = code_of(make, task, 0, UNIQUE | int(kIOMapInhibitCache))
    bad = [
        code_of(make, task, 0, UNIQUE, 8192, 0),
        code_of(make, task, 0, UNIQUE, -1, 5),
        code_of(make, task, 0, UNIQUE, 1, 8192),
        code_of(make, None),
        code_of(make, task, 0, 0x2000_0001),
        code_of(make, task, 0, 0x8),
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(task, 0, UNIQUE).unmap()
        loud = [each.category for each in told]
        make(task, 0, UNIQUE | kIOMapReadOnly).unmap()
        quiet = len(told) - len(loud)
    seen = bench.device_reads(memory, data.take(8192))
    attest(
        MAPPING,
        asked="what must be refused, what must warn",
        attested=f"another cache mode: {busy.name}; bad arguments: {bad[0].name} x{len(bad)}; "
        f"{seen}",
        kept=busy is IOReturn.kIOReturnBusy
        and set(bad) == {IOReturn.kIOReturnBadArgument}
        and loud == [IOMapWarning]
        and quiet == 0,
        reason=f"codes {[each.name for each in bad]}; warnings {loud}, with read-only {quiet}",
    )


@pytest.mark.promise("release")
def test_a_stale_mapping_is_refused(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """After unmap the object refuses, and its address is not mapped any more."""
    memory: IOBufferMemoryDescriptor = buffer(kIODirectionInOut, 8192, PAGE)
    mapped = memory.createMappingInTask(current_task(), 0, UNIQUE)
    place = mapped.getVirtualAddress()
    there = can_load(place)
    view = mapped.view()
    held = code_of(mapped.unmap)
    view.release()
    mapped.unmap()
    stale = code_of(mapped.view), code_of(mapped.getVirtualAddress), code_of(mapped.unmap)
    gone = not can_load(place)
    seen = bench.device_reads(memory, data.take(8192))
    attest(
        "release",
        asked="a mapping after its unmap",
        attested=f"with a view alive: {held.name}; then {stale[0].name}, gone: {gone}; {seen}",
        kept=held is IOReturn.kIOReturnBusy
        and set(stale) == {IOReturn.kIOReturnNotAttached}
        and there
        and gone,
        reason=f"its address could be loaded from: {there}; after the unmap: {not gone}",
    )


@pytest.mark.kernel
@pytest.mark.unlimited("addresses")
@pytest.mark.promise("processes")
@pytest.mark.parametrize("pool", ["main", "hugetlb", "pinned", "pageable"])
def test_a_forked_child_has_none_of_it(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, pool: str
) -> None:
    """For any kind of memory: in the child its addresses fault, and the parent still has it."""
    pageable = int(kIOMemoryPageable) if pool == "pageable" else 0
    memory = buffer(kIODirectionInOut | pageable, PAGE, PAGE, pool=pool)
    memory.prepare()
    place, content = memory.address, data.take(PAGE)
    memory.writeBytes(0, content)
    child = os.fork()
    if not child:
        os._exit(can_load(place))
    there = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    here = can_load(place)
    seen = bench.device_sees(memory, content)
    memory.complete()
    attest(
        "processes",
        asked=f"a fork, with a buffer of {pool}",
        attested=f"loads of the child: {there}, of its parent: {int(here)}; {seen}",
        kept=not there and here,
    )
