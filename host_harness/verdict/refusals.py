# SPDX-License-Identifier: Apache-2.0
"""The message about a refused DMA: where, why, which memory, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.evidence import Request
from dma_rehearsal.host_harness.verdict.guest_buffers import Memory, nearest_to

_SHOWN = 3  # groups of refusals that are alike
_FOUND_MAX = 64  # of them that are findings

# Why, and what to do next, by DmaReason's names; with blanks for the direction.
_REASONS: dict[str, tuple[str, str]] = {
    "PROTECTION_OUTSIDE": (
        "nothing grants the device this memory",
        "prepare() the buffer before the DMA and complete() or release() it only after; compare "
        "the address that the device got with the buffer's segments",
    ),
    "PROTECTION_PAST_END": (
        "it goes past the end of what is granted",
        "compare the length that the device got with the buffer's, and add up its segments: it "
        "may have more than one",
    ),
    "PROTECTION_DIRECTION": (
        "the memory is granted for the other direction",
        "the device {write} memory here, which needs {direction} or kIODirectionInOut",
    ),
    "PROTECTION_FUNCTION": (
        "the memory is granted to {owner} alone, and {function} does this DMA",
        "grant the memory to the function that does the DMA",
    ),
    "BUS_MASTER_OFF": (
        "the device's bus mastering is off",
        "turn on bus mastering (COMMAND bit 2) before the DMA, and wait for DMA in flight before "
        "it is turned off or the device is reset",
    ),
    "UNMAPPED": (
        "no memory is at this address",
        "compare the address that the device got with the buffer's segments: upper half left out, "
        "a virtual address, or behind an IOMMU one that is not mapped any more",
    ),
    "READ_ONLY": (
        "the memory may not be written",
        "behind an IOMMU, map it for the device's writes (kIODirectionIn or InOut); ROM never can",
    ),
    "OWN_BAR": (
        "the address lies in the device's own registers",
        "give the device a memory address, not one of its BARs",
    ),
    "ADDRESS_WRAP": (
        "address and length pass the end of the address space",
        "check the length, and the two halves of the address",
    ),
    "BUFFER_RANGE": (
        "it goes past the end of the device's own buffer",
        "check offset and length against the size of the device's buffer",
    ),
    "ATOMIC_DISABLED": (
        "the device's AtomicOp Requester Enable is clear",
        "turn it on (Device Control 2 bit 6; pci_enable_atomic_ops_to_root() in a Linux driver)",
    ),
    "ATOMIC_UNSUPPORTED": (
        "what is at this address takes no AtomicOp of this size",
        "give the device an address in memory, or declare AtomicOps(completes=...) for the "
        "function whose BAR it is",
    ),
    "ADDRESS_BITS": (
        "the device does not drive as many address bits",
        "give the IODMACommand, or the buffer, the device's number of address bits",
    ),
    "ALIGNMENT": (
        "the device needs an address with more alignment",
        "ask for the device's alignment when the buffer is made or its segments are generated",
    ),
    "LENGTH_ALIGNMENT": (
        "the device needs a length that is a multiple of more bytes",
        "round the length as the device's profile says, or cut the transfer there",
    ),
    "MAX_SEGMENT": (
        "the segment is longer than the device's longest",
        "generate segments with the device's maximum segment size",
    ),
    "MAX_SEGMENTS": (
        "the transfer has more segments than the device takes",
        "cut the transfer, or use memory with fewer segments",
    ),
    "MAX_TRANSFER": (
        "the transfer is longer than the device's longest",
        "cut the transfer at the device's maximum transfer size",
    ),
    "TRANSFER_SIZE": (
        "the transfer of the ring is longer than any may be",
        "cut the transfer at RING_BYTES_MAX, or RING_BYTES_CACHED_MAX with the cache model on",
    ),
    "BOUNDARY": (
        "it crosses a boundary that the device must not cross",
        "generate segments with the device's boundary",
    ),
    "PRP": (
        "a segment lies in the middle of a page, or leaves a gap",
        "generate segments by the device's rule: whole pages but for the first and the last",
    ),
    "INJECTED": (
        "error injection makes the device fail each DMA",
        "clear bit 16 of the control register of the error-injection DVSEC",
    ),
    "BAD_DESCRIPTOR": (
        "the descriptor has unknown flags, no bytes, or directions that differ in one transfer",
        "look at the descriptor's fields as the device reads them: layout, byte order, leftovers; "
        "and write the descriptor before the doorbell",
    ),
    "UNFINISHED_CHAIN": (
        "the last descriptor announces another one",
        "leave out the chain flag of a transfer's last descriptor",
    ),
    "RESERVED_ADDRESS_TYPE": (
        "the address type is a reserved one",
        "use an address type that the specification has",
    ),
    "NO_ATC_ENTRY": (
        "the device's translation cache does not cover it",
        "ask for a translation of the whole range first, and again after an invalidation",
    ),
    "CLIENT_ERROR": (
        "the memory's owner (QEMU) answered with an error",
        "look into qemu.log; the address may be a device's, which refuses such accesses",
    ),
    "CACHE_UNTRACKED": (
        "a no-snoop access went to memory that no buffer tracks",
        "let the access go to a mapped buffer, or be snooped",
    ),
    "CACHE_SCATTERED": (
        "it touches more separately tracked pieces than the cache model takes at once",
        "cut the access where the buffers do, or track the memory as one buffer",
    ),
}
# What to do next about the mappings of a kernel driver.
_LINUX = {
    "PROTECTION_OUTSIDE": (
        "map the buffer before the device gets its address, unmap it only when the device is done, "
        "and give the device what the map returned: neither a physical nor a virtual address"
    ),
    "PROTECTION_PAST_END": (
        "compare the length that the device got with the one that was mapped; after dma_map_sg() "
        "use sg_dma_len() of as many entries as it returned"
    ),
    "PROTECTION_DIRECTION": (
        "the device {write} memory here, which needs {linux} or DMA_BIDIRECTIONAL"
    ),
    "PROTECTION_FUNCTION": (
        "map the buffer with the struct device of {function}, which does the DMA: dma_map_*() of "
        "{owner} is for {owner} alone"
    ),
    "BUS_MASTER_OFF": (
        "call pci_set_master() before the device is started, and stop the device before "
        "pci_clear_master() or pci_disable_device()"
    ),
    "UNMAPPED": (
        "compare the address that the device got with the one that was mapped: its upper half may "
        "be left out, or it is a virtual address"
    ),
    "ADDRESS_BITS": "set the DMA mask to the device's address bits, before the first mapping",
    "CACHE_UNTRACKED": "map the memory before the device gets its address",
}
_DMA_MAPPING_ERROR = (1 << 64) - 1  # Linux, include/linux/dma-mapping.h
_FAILED_MAPPING = (
    "the address is DMA_MAPPING_ERROR: a mapping failed, or this entry of a list lies behind those"
    " that dma_map_sg() returned",
    "check each handle with dma_mapping_error() before the device gets it, and go through as many "
    "entries of a list as dma_map_sg() returned",
)
_UNDONE = (
    "the mapping was undone while the device still had its address: wait until the device is done, "
    "or stop it, before the unmap"
)
_UNKNOWN = ("the device's model refused it", "look into device-trace.jsonl for what came before")


@dataclass(frozen=True, slots=True)
class DriverMemory:
    """The mappings of a kernel driver that a refused request is about, in words.

    ``there`` is the one of the byte at fault, ``undone`` before the request or not; ``nearest`` is
    that of the nearest grant. ``condition`` is empty in a test without a kernel driver.
    """

    there: str = ""
    nearest: str = ""
    undone: bool = False
    condition: str = ""


_NOT_A_DRIVERS = DriverMemory()
_NONE: Mapping[int, DriverMemory] = MappingProxyType({})


def complaint(
    refused: Sequence[Request],
    memory: Sequence[Memory],
    drivers: Mapping[int, DriverMemory] = _NONE,
) -> str:
    """Return the complaint about refusals that a test did not announce; empty without any.

    Its first line is about the first refusal. ``memory`` are the guest's buffers, ``drivers`` a
    kernel driver's, by the number of the request.
    """
    if not refused:
        return ""
    groups = _groups(refused)
    parts = []
    for alike in groups[:_SHOWN]:
        parts += _of_group(alike, memory, drivers.get(alike[0].sequence, _NOT_A_DRIVERS))
    if others := groups[_SHOWN:]:
        parts.append(f"and {sum(map(len, others))} more that were refused for other reasons")
    reasons = sorted({each.reason for each in refused})
    expects = "driver.expects" if any(each.condition for each in drivers.values()) else "expects"
    parts.append(
        f"if the refusal is intended: with {expects}("
        + ", ".join(f"DmaReason.{reason}" for reason in reasons)
        + "): ... around that DMA"
    )
    return "\n".join(parts)


def findings(
    refused: Sequence[Request],
    memory: Sequence[Memory],
    drivers: Mapping[int, DriverMemory] = _NONE,
) -> list[DriverFinding]:
    """Return the facts of what `complaint` tells."""
    return [
        DriverFinding.of(
            f"DmaReason.{alike[0].reason}",
            "",
            _of_group(alike, memory, drivers.get(alike[0].sequence, _NOT_A_DRIVERS)),
        )
        for alike in _groups(refused)[:_FOUND_MAX]
    ]


def _groups(refused: Sequence[Request]) -> list[list[Request]]:
    """Return the refusals, those that are alike together."""
    groups: dict[tuple[object, ...], list[Request]] = {}
    for each in refused:
        owner = each.nearest.owner if each.nearest else None
        groups.setdefault((each.device, each.write, each.reason, owner), []).append(each)
    return list(groups.values())


def told(each: Request) -> str:
    """Return one refusal as a line: device, direction, length, address, reason."""
    kind = "write" if each.write else "read"
    return (
        f"{each.device or 'the device'}: a {kind} of {each.length} bytes at {each.address:#x} was "
        f"refused: {each.reason}"
    )


def _of_group(
    alike: Sequence[Request], memory: Sequence[Memory], drivers: DriverMemory
) -> list[str]:
    first = alike[0]
    why, what_next = _REASONS.get(first.reason, _UNKNOWN)
    if drivers.condition:
        what_next = _UNDONE if drivers.undone else _LINUX.get(first.reason, what_next)
        if first.address == _DMA_MAPPING_ERROR:
            why, what_next = _FAILED_MAPPING
    lines = [f"{told(first)}, and the test did not announce it"]
    at_fault = first.address if first.byte is None else first.byte
    place = "" if at_fault == first.address else f"; the first byte at fault is {at_fault:#x}"
    functions = {
        "owner": first.nearest.function if first.nearest else "",
        "function": first.function or "another function",
    }
    lines.append(f"  why: {why.format(**functions)}{place} (request {first.sequence})")
    if drivers.there:
        lines.append(f"  there: {drivers.there}")
    known = nearest_to(memory, at_fault, first.sequence)
    released = known is not None and known.gone(first.sequence)
    if known is not None:
        since = first.sequence - known.released_after
        gone = f", released at {known.released}, {since} operation{'s' * (since > 1)} ago"
        lines.append(f"  there: {known}{gone if released else ''}")
    if first.nearest is not None:
        grant = first.nearest
        there = [each for each in memory if not each.gone(first.sequence)]
        owner = nearest_to(there, grant.address, first.sequence)
        of = f", of {owner}" if owner is not None and owner != known else ""
        if drivers.nearest:
            of = "" if drivers.nearest == drivers.there else f", of {drivers.nearest}"
        lines.append(
            f"  nearest grant: {grant.direction}, {grant.length} bytes at {grant.address:#x}, "
            f"owner {grant.owner:#x}{f', for {grant.function} alone' if grant.function else ''}{of}"
        )
    elif first.reason.startswith("PROTECTION_"):
        lines.append("  nearest grant: none is in force")
    if released:
        what_next = (
            "the buffer was released while the device still had its address: wait until the DMA "
            "is done, or stop the device, before release()"
        )
    if drivers.condition:
        lines.append(f"  condition: {drivers.condition}")
    direction = "kIODirectionIn" if first.write else "kIODirectionOut"
    linux = "DMA_FROM_DEVICE" if first.write else "DMA_TO_DEVICE"
    verb = "writes" if first.write else "reads"
    words = {"write": verb, "direction": direction, "linux": linux, **functions}
    lines.append(f"  next: {what_next.format(**words)}")
    if len(alike) > 1:
        end = alike[-1].address
        lines.append(f"  and {len(alike) - 1} more like it, the last at {end:#x}")
    return lines
