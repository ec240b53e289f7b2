# SPDX-License-Identifier: Apache-2.0
"""The named faults of the allocator, of the driver below it and of its mapper; see `faults`."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.device.layout.faults.iommu import IOMMU
from dma_rehearsal.host_harness.process.errors import Status


def _allocator(
    name: str, promise: str, tests: str, description: str, *promises: str, words: str = ""
) -> Fault:
    return Fault(
        f"allocator-{name}",
        Place.GUEST,
        Status.FAILED,
        (promise, *promises),
        description,
        words=words,
        tests=tests,
    )


def _driver(name: str, tests: str, description: str, *promises: str) -> Fault:
    return Fault(
        f"driver-{name}",
        Place.DRIVER,
        Status.FAILED,
        promises,
        description,
        parameter=f"dma_rehearsal.fault={name.replace('-', '_')}",
        tests=tests,
    )


DRIVER = (
    _driver(
        "wrong-cache",
        "test_cache_modes.py",
        "the driver maps another cache mode than the one asked for",
        "kIOMapWriteThruCache",
    ),
    _driver(
        "pin-does-not-pin",
        "test_driver_pin.py",
        "the driver lets go of pinned pages at once, and tells their addresses all the same",
        "pinned pages",
    ),
    _driver(
        "pin-never-ends",
        "test_driver_pin.py",
        "the driver keeps pages pinned after the last close of their file",
        "unpinned pages",
    ),
    _driver(
        "close-stops-nothing",
        "test_driver_stop.py",
        "the driver leaves a function as it is when its file is closed for the last time",
        "stopped at the last close",
    ),
    _driver(
        "dead-pins-end",
        "test_driver_stop.py",
        "the driver gives back a dead process's pinned pages though its device may still do DMA",
        "pages outlive their device's work",
    ),
    _driver(
        "wrong-entry",
        "test_witnessed.py",
        "the driver tells page-table entries with another cache mode than the CPU finds",
        "kIOMapWriteThruCache",
        "page size",
    ),
    _driver(
        "aliases",
        "test_cache_modes.py",
        "the driver maps memory again with another cache mode, which is then a second one",
        "kIOMapInhibitCache",
        "kIOMapWriteThruCache",
    ),
)

ALLOCATOR = (
    _allocator(
        *("misaligned", "alignment", "test_properties.py"),
        "the allocator returns an address off its alignment",
    ),
    _allocator(
        *("overlap", "capacity", "test_properties.py"),
        "the allocator hands out two overlapping buffers",
    ),
    _allocator(
        *("segments-shuffled", "kIOMemoryPageable", "test_prepare.py"),
        "pinned memory tells its segments in the wrong order",
    ),
    _allocator(
        *("purge-undetected", "kIOMemoryPurgeable", "test_purgeable.py"),
        "purged memory is handed back as what was left there",
    ),
    _allocator(
        *("double-release", "release", "test_release.py"), "a second release passes in silence"
    ),
    _allocator(*("stale-mapping", "release", "test_mappings.py"), "what is unmapped stays mapped"),
    _allocator(
        *("view-without-mapping", "release", "test_release.py"),
        "memory is given to others while a mapping's view looks at it",
    ),
    _allocator(
        *("freed-before-withdrawn", "release", "test_release.py"),
        "memory is given to others while devices can still reach it",
    ),
    _allocator(
        *("lost-reclaim", "release", "test_release.py"),
        "the memory of a buffer that was dropped never comes back",
    ),
    _allocator(
        *("release-in-flight", "release", "test_release.py"),
        "a buffer is released while a DMA on it is in flight",
    ),
    _allocator(
        *("no-quarantine", "release", "test_quarantine.py"),
        "what is released does not rest: a late DMA lands in the next buffer",
    ),
    _allocator(
        *("grants-both-ways", "kIODirectionOut denial", "test_prepare.py"),
        "prepare() lets the device read and write, whatever the direction",
    ),
    _allocator(
        *("grants-outlive", "kIOMemoryPageable", "test_prepare.py"),
        "what prepare() granted is never withdrawn",
        "release",
        words="were granted when it was released",
    ),
    _allocator(
        *("grants-of-the-dead", "processes", "test_processes.py"),
        "a killed process's grants stay when its memory goes to another one",
    ),
    _allocator(
        *("writable-after-out", "prepare", "test_prepare.py"),
        "memory prepared for reading is prepared for writing as well",
    ),
    _allocator(
        *("blocks-anywhere", "may block", "test_release.py"),
        "an allocation in a signal handler is not refused",
    ),
    _allocator(
        *("bounce-not-copied-back", "IODMACommand", "test_dma_command.py"),
        "what the device wrote into a bounce buffer stays there",
    ),
    _allocator(
        *("bounce-wrong-direction", "IODMACommand", "test_dma_command.py"),
        "before the device reads, the empty bounce buffer goes over the memory",
    ),
    _allocator(
        *("mask-ignored", "IODMACommand", "test_dma_command.py"),
        "memory above the device's address limit is given to it",
    ),
    _allocator(
        *("boundary-crossed", "IODMACommand", "test_dma_command.py"),
        "segments cross the boundary that the device cannot cross",
    ),
    _allocator(
        *("non-coherent-ignored", "cache maintenance", "test_cache_calls.py"),
        "a DMA command takes every device for a coherent one",
    ),
    _allocator(
        *("part-grants-all", "IOSubMemoryDescriptor", "test_dma_command.py"),
        "to prepare a part lets the device reach all that it is a part of",
    ),
    _allocator(
        *("lines-forgotten", "provenance", "test_ledger.py"),
        "nobody looks which line makes a descriptor",
    ),
    _allocator(
        *("drop-unnoticed", "provenance", "test_ledger.py"),
        "a buffer that was dropped without release() is not told of",
    ),
    _allocator(
        *("holders-unnamed", "provenance", "test_ledger.py"),
        "nobody says who has the memory that an allocation did not get",
    ),
    _allocator(
        *("untouched-unseen", "transfer accounts", "test_ledger.py"),
        "bytes that no DMA touched count as touched",
    ),
    _allocator(
        *("list-cut-unnoticed", "transfer accounts", "test_ledger.py"),
        "a list that was not generated to its end is completed all the same",
    ),
    _allocator(
        *("bounce-data-forgotten", "transfer accounts", "test_ledger.py"),
        "nobody looks whether a device wrote to a bounce buffer",
    ),
    _allocator(
        *("kernel-mapping-cut-short", "createMappingInTask", "test_tasks.py"),
        "the last complete() ends the kernel's mapping of pageable memory, whoever has it",
    ),
    _allocator(
        *("strict-ignored", "inTask", "test_iokit.py"),
        "what IOKit refuses is done for ported code, too",
    ),
    _allocator(
        *("capacity-not-aligned-to", "alignment", "test_iokit.py"),
        "contiguous memory of withCapacity is at any address",
    ),
    _allocator(
        *("mapping-grants", "kIOMemoryKernelUserShared", "test_owner.py"),
        "a mapping in another task lets devices reach the memory by a grant of its own",
    ),
    _allocator(
        *("unmap-not-awaited", "release", "test_owner.py"),
        "unmap() returns before the other task has unmapped the memory",
    ),
    _allocator(
        *("two-owners", "inTask", "test_owner.py"),
        "a buffer made in another task is granted by the maker and by the task",
    ),
    _allocator(
        *("withdrawal-failure-hidden", "release", "test_owner.py"),
        "a grant that could not be withdrawn passes for one that was",
    ),
    _allocator(
        *("child-counts-as-parent", "processes", "test_owner.py"),
        "a forked child takes for its own what its parent had granted",
    ),
)


def _mapper(name: str, promise: str, description: str, words: str = "") -> Fault:
    return Fault(
        f"mapper-{name}",
        Place.GUEST,
        Status.FAILED,
        (promise,),
        description,
        words=words,
        options=IOMMU,
        tests="test_mapper.py",
    )


MAPPER = (
    _mapper(
        *("grants-both-ways", "mapper denial"),
        "the mapper lets the device read and write a buffer, whatever its direction",
    ),
    _mapper(
        *("rights-kept", "mapper denial"),
        "what the device may do with a buffer behind the mapper never changes",
    ),
    _mapper(
        *("stale-after-unmap", "mapper denial"),
        "a buffer stays mapped for the device after complete() and release()",
        words="to be refused for UNMAPPED: 0 were",
    ),
    _mapper(
        *("segments-unmerged", "kIOMemoryPhysicallyContiguous"),
        "behind the mapper each page of a buffer is a segment",
    ),
    _mapper(
        *("none-ignored", "kIOMemoryMapperNone"),
        "a buffer that is to go around the mapper gets bus addresses of the mapper's",
    ),
    _mapper(
        *("host-contiguous-ignored", "kIOMemoryHostPhysicallyContiguous"),
        "memory is contiguous to the device alone, where it is to be so in the host",
    ),
    _mapper(
        *("unmapped-translated", "kIOMemoryMapperNone"),
        "a command that is to go around the mapper gets bus addresses of the mapper's",
    ),
)
