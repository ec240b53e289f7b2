# SPDX-License-Identifier: Apache-2.0
"""Reports about a driver's use of the DMA API: their kinds, and the words for each.

The kernel module ``guest/dma_ops/`` makes them, and sends them to the platform's mailbox. The rules
are those of Linux's Documentation/core-api/dma-api.rst and dma-api-howto.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class DriverReportKind(IntEnum):
    """MailRecord.kind of a REPORT."""

    UNMAP_OF_NOTHING = 1
    UNMAP_CALL = 2
    UNMAP_SIZE = 3
    UNMAP_DIRECTION = 4
    UNMAP_NENTS = 5
    NEVER_UNMAPPED = 6
    SYNC_OF_NOTHING = 7
    SYNC_PAST_END = 8
    SYNC_DIRECTION = 9
    MASK_NEVER_SET = 10
    MASK_BEYOND_DEVICE = 11
    ADDRESS_BEYOND_DEVICE = 12
    MAPPING_ERROR_UNCHECKED = 13
    SEGMENT_TOO_LONG = 14
    SEGMENT_BOUNDARY = 15
    OVERLAPPING_MAPPINGS = 16
    FREE_IN_ATOMIC = 17
    FREE_ADDRESS = 18
    SYNC_NENTS = 19
    BAD_DIRECTION = 20
    MAP_OF_NOTHING = 21
    RECORDS_EXHAUSTED = 22
    PLATFORM_REFUSED = 23
    REPORTS_LOST = 24
    CALL_AFTER_UNBIND = 25
    NEVER_TAKEN_BACK = 26
    P2P_REFUSED = 27
    NEVER_GIVEN = 28


@dataclass(frozen=True, slots=True)
class DriverReportWords:
    """One line of a report, what to do ``next``, and the names of MailRecord.values ("" unused).

    A value named "bytes" or "entries" is a number; "direction" a GrantDirection; "call" a DmaCall;
    "address" and "mask" are shown in hexadecimal.
    """

    description: str
    next: str
    values: tuple[str, str] = ("", "")


DRIVER_REPORT_WORDS: dict[DriverReportKind, DriverReportWords] = {
    DriverReportKind.UNMAP_OF_NOTHING: DriverReportWords(
        "an unmap or free of an address that is not mapped",
        "look for a second unmap of the same buffer, or for a handle that changed since the map",
    ),
    DriverReportKind.UNMAP_CALL: DriverReportWords(
        "a mapping was undone by a function of another family than the one that made it",
        "undo dma_map_page() and dma_map_single() by dma_unmap_page() or dma_unmap_single(), "
        "dma_map_sg() by dma_unmap_sg(), dma_alloc_coherent() by dma_free_coherent()",
        ("call that mapped", ""),
    ),
    DriverReportKind.UNMAP_SIZE: DriverReportWords(
        "a mapping was undone with another size than it was made with",
        "keep the size beside the handle, and pass the same to the unmap",
        ("bytes mapped", "bytes unmapped"),
    ),
    DriverReportKind.UNMAP_DIRECTION: DriverReportWords(
        "a mapping was undone with another direction than it was made with",
        "pass the direction of the map to the unmap",
        ("direction mapped", "direction unmapped"),
    ),
    DriverReportKind.UNMAP_NENTS: DriverReportWords(
        "dma_unmap_sg() got another number of entries than dma_map_sg()",
        "pass the number of entries that dma_map_sg() was given (orig_nents), not the one that it "
        "returned",
        ("entries mapped", "entries unmapped"),
    ),
    DriverReportKind.NEVER_UNMAPPED: DriverReportWords(
        "a mapping or allocation was left when the driver was unbound, or its probe failed",
        "undo it in remove(), and on the error paths of probe()",
    ),
    DriverReportKind.SYNC_OF_NOTHING: DriverReportWords(
        "a sync of an address that is not mapped",
        "sync between the map and the unmap, with the handle that the map returned",
    ),
    DriverReportKind.SYNC_PAST_END: DriverReportWords(
        "a sync of bytes behind the end of the mapping",
        "sync at most the bytes that are mapped",
        ("bytes mapped", "bytes from the mapping's start"),
    ),
    DriverReportKind.SYNC_DIRECTION: DriverReportWords(
        "a sync with a direction that the mapping does not have",
        "pass the direction of the map to each sync",
        ("direction mapped", "direction synced"),
    ),
    DriverReportKind.MASK_NEVER_SET: DriverReportWords(
        "a mapping before any dma_set_mask()",
        "call dma_set_mask_and_coherent() in probe(), and check its result",
    ),
    DriverReportKind.MASK_BEYOND_DEVICE: DriverReportWords(
        "a DMA mask with more bits than the device drives",
        "set the mask to the device's address bits",
        ("mask set", "bits of the device"),
    ),
    DriverReportKind.ADDRESS_BEYOND_DEVICE: DriverReportWords(
        "a mapping at an address that the device cannot drive",
        "set the mask to the device's address bits before the first mapping",
        ("bits of the device", ""),
    ),
    DriverReportKind.MAPPING_ERROR_UNCHECKED: DriverReportWords(
        "a mapping failed, and the driver used the handle",
        "check each handle with dma_mapping_error() before the device gets it",
    ),
    DriverReportKind.SEGMENT_TOO_LONG: DriverReportWords(
        "a segment of a scatter list is longer than the device takes",
        "call dma_set_max_seg_size(), and build lists within it",
        ("bytes of the segment", "bytes the device takes"),
    ),
    DriverReportKind.SEGMENT_BOUNDARY: DriverReportWords(
        "a segment crosses a boundary that the device cannot cross",
        "call dma_set_seg_boundary(), and build lists within it",
        ("bytes of the segment", "mask of the boundary"),
    ),
    DriverReportKind.OVERLAPPING_MAPPINGS: DriverReportWords(
        "two mappings share bytes, and the device may write them",
        "unmap the buffer before it is mapped again, or map it once",
        ("address of the other mapping", "bytes of the other mapping"),
    ),
    DriverReportKind.FREE_IN_ATOMIC: DriverReportWords(
        "dma_free_coherent() was called with interrupts disabled",
        "free coherent memory where the driver may sleep",
    ),
    DriverReportKind.FREE_ADDRESS: DriverReportWords(
        "memory was freed with another CPU address or page than it was allocated with",
        "keep the CPU address, or the page, beside the handle, and pass both to the free",
        ("address allocated", "address freed"),
    ),
    DriverReportKind.SYNC_NENTS: DriverReportWords(
        "a sync of a scatter list got another number of entries than dma_map_sg()",
        "pass the number of entries that dma_map_sg() was given (orig_nents)",
        ("entries mapped", "entries synced"),
    ),
    DriverReportKind.BAD_DIRECTION: DriverReportWords(
        "a mapping without a direction",
        "pass DMA_TO_DEVICE, DMA_FROM_DEVICE or DMA_BIDIRECTIONAL",
    ),
    DriverReportKind.MAP_OF_NOTHING: DriverReportWords(
        "a mapping of no bytes",
        "check the length before the map",
    ),
    DriverReportKind.RECORDS_EXHAUSTED: DriverReportWords(
        "the module had no memory for a record, so a mapping is not watched",
        "give the guest more memory (MEMORY=)",
    ),
    DriverReportKind.PLATFORM_REFUSED: DriverReportWords(
        "the platform refused a command, so a mapping is not watched",
        "see the status in the report, and MailStatus in device/layout/mailbox.py",
        ("status", "command"),
    ),
    DriverReportKind.REPORTS_LOST: DriverReportWords(
        "there were more reports than the module sends of one bind",
        "mend the first ones, and run again",
        ("reports left out", ""),
    ),
    DriverReportKind.CALL_AFTER_UNBIND: DriverReportWords(
        "the DMA API was called for a device that the driver does not have any more",
        "stop timers, work and interrupts in remove(), and at the errors of probe(), before it "
        "returns",
    ),
    DriverReportKind.NEVER_TAKEN_BACK: DriverReportWords(
        "bytes that the device may have written were given to it again, and never to the CPU",
        "call dma_sync_single_for_cpu() before the driver looks at what was received; where it "
        "does not look, leave out the sync for the device, which has the buffer still",
    ),
    DriverReportKind.P2P_REFUSED: DriverReportWords(
        "memory of another PCI device was mapped, which the module cannot watch",
        "rehearse with memory of the machine",
    ),
    DriverReportKind.NEVER_GIVEN: DriverReportWords(
        "the driver stored to bytes that the device owns, and no sync gave them to the device",
        "store before the map, or between dma_sync_single_for_cpu() and "
        "dma_sync_single_for_device()",
        ("bytes from the mapping's start", ""),
    ),
}
