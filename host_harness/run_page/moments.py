# SPDX-License-Identifier: Apache-2.0
"""Events of the device's trace in words: who did what to which memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dma_rehearsal.host_harness.verdict.driver_mappings import LINUX_DIRECTIONS, function_of
from dma_rehearsal.host_harness.verdict.evidence import number

Range = tuple[int, int]  # bus address of the first byte, bytes
Event = Mapping[str, Any]
Mood = Literal["moved", "refused", "fault", "right", "call", "cache", "other"]
_RANGES_MAX = 256
_SHOWN = 4  # ranges in words
_WORDS_MAX = 400  # characters
_ENDED = ("RESET", "CLIENT_GONE")
_COMMON = frozenset(("time", "device", "test", "event"))
# Of no use to people: QEMU and the harness cause them in every test.
_SILENT = frozenset(("transaction", "attach", "detach", "power"))


@dataclass(frozen=True, slots=True)
class Moment:
    """An event. ``time`` is in seconds, of the trace's clock; ``what`` says it in words.

    ``mood``: bytes that moved, a refusal, a mistake that a model reports, a right to memory, a
    driver's call, a cache command, or something else. ``at_fault`` is the first byte at fault.
    ``opens`` and ``closes`` name the right, mapping or track that begins or ends here. ``write``:
    the device writes memory; None: this is not a DMA.
    """

    time: float
    who: str
    what: str
    mood: Mood
    ranges: tuple[Range, ...] = ()
    at_fault: int | None = None
    write: bool | None = None
    opens: str = ""
    closes: str = ""
    label: str = ""
    report: tuple[bytes, bytes] | None = None

    @property
    def red(self) -> bool:
        """Whether it is a refusal or a report."""
        return self.mood in ("refused", "fault")


def of(event: Event, buffers: Mapping[int, tuple[Range, ...]]) -> Moment | None:
    """Return the moment of an event; None for one that says nothing to people.

    ``buffers`` are the ranges of mapped and tracked buffers, by their tags. KeyError, TypeError or
    ValueError for an event that its writer would not have written.
    """
    name = str(event["event"])
    if name in _SILENT:
        return None
    return _MAKERS.get(name, _other)(event, buffers)


def spoken(ranges: tuple[Range, ...], more: int = 0) -> str:
    """Return ranges in words: bytes and addresses."""
    shown = [f"{length} bytes at {start:#x}" for start, length in ranges[:_SHOWN]]
    more += max(0, len(ranges) - _SHOWN)
    total = sum(length for _, length in ranges)
    whole = f"{total} bytes in {len(ranges)} pieces: " if len(ranges) > 1 else ""
    return whole + ", ".join(shown) + (f" and {more} more" if more else "")


def _made(
    event: Event,
    what: str,
    mood: Mood,
    ranges: tuple[Range, ...] = (),
    **more: Any,
) -> Moment:
    who = "driver" if str(event["event"]).startswith("driver ") else str(event["device"])[:64]
    return Moment(float(event["time"]), who, what[:_WORDS_MAX], mood, ranges, **more)


def _ranges(event: Event) -> tuple[Range, ...]:
    return tuple((number(start), number(size)) for start, size in event["ranges"][:_RANGES_MAX])


def _range(event: Event) -> tuple[Range, ...]:
    return ((number(event["address"]), number(event["length"])),)


def _request(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    write, reason, ranges = bool(event["write"]), str(event["reason"]), _ranges(event)
    left_out = int(event.get("more", 0)) + max(0, len(event["ranges"]) - len(ranges))
    refused = reason not in ("NONE", *_ENDED)
    way = "writes memory" if write else "reads memory"
    said = f"{way}: {spoken(ranges, left_out)}"
    if event.get("snooped") is False:
        said += ", not snooped"
    byte = event.get("byte")
    whole = sum(length for _, length in ranges)
    if refused:
        said += f". REFUSED: {reason}"
    elif reason != "NONE":
        said += f". Ended by {reason}"
    moved = int(event["moved"])
    if not refused and not left_out and moved != whole:
        said += f"; {moved} bytes were moved"
    elif refused and moved:
        said += f"; {moved} bytes were moved before"
    return _made(
        event,
        said,
        "refused" if refused else "moved",
        ranges,
        write=write,
        at_fault=None if byte is None else number(byte),
        label=f"{'writes' if write else 'reads'} {whole}" + (f": {reason}" if refused else ""),
    )


def _record(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    said = (
        f"record of DMA {event['sequence']}: {event['status']}, {event['moved']} of "
        f"{event['length']} bytes moved, reason {event['reason']}, CRC-32 {int(event['crc32']):08x}"
    )
    return _made(event, said, "other")


def _grant(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    of_one = f" to {event['function']} alone" if event.get("function") else ""
    said = f"grant {event['id']}: {event['direction']}, {spoken(_range(event))}{of_one}"
    label = f"grant {event['direction']}, {number(event['length'])} bytes"
    return _made(event, said, "right", _range(event), opens=f"grant {event['id']}", label=label)


def _withdraw(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    said = f"grant {event['id']} is withdrawn: {spoken(_range(event))}"
    return _made(
        event, said, "right", _range(event), closes=f"grant {event['id']}", label="grant ends"
    )


def _withdraw_owner(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    owner = number(event["owner"])
    said = f"all grants of owner {owner:#x} are withdrawn ({event['count']})"
    return _made(event, said, "right", closes=f"owner {owner}")


def _driver_map(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    way = LINUX_DIRECTIONS.get(str(event["direction"]), str(event["direction"]))
    call = function_of(str(event["call"]))
    said = f"{call}(): {spoken(_range(event))}, {way}"
    tag = number(event["tag"])
    return _made(
        event, said, "call", _range(event), opens=f"mapping {tag}", label=f"mapped {way[4:]}"
    )


def _driver_unmap(event: Event, buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    tag = number(event["tag"])
    ranges = buffers.get(tag, ())
    said = f"{function_of(str(event['call']))}(): {spoken(ranges)}"
    return _made(event, said, "call", ranges, closes=f"mapping {tag}", label="unmapped")


def _driver_sync(event: Event, buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    ranges = _part(buffers.get(number(event["tag"]), ()), event)
    said = f"{function_of(str(event['call']))}(): {spoken(ranges)}, for the {event['to']}"
    return _made(event, said, "call", ranges, label=f"sync for {event['to']}")


def _driver_report(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    ranges = _range(event) if number(event["length"]) else ()
    said = f"REPORT {event['kind']} by {function_of(str(event['call']))}: {spoken(ranges)}"
    return _made(event, said, "fault", ranges, label=str(event["kind"]))


def _cache(event: Event, buffers: Mapping[int, tuple[Range, ...]]) -> Moment | None:
    command = str(event["command"])
    if command == "TAKE_REPORTS":
        count = int(event.get("reports", 0))
        return _made(event, f"the test takes {count} reports", "cache") if count else None
    if command == "CONFIGURE":
        return _made(event, "the cache model begins anew, or ends", "cache", closes="tracks")
    ranges = _part(buffers.get(number(event.get("tag", 0)), ()), event)
    said = f"cache: {command}"
    if ranges:
        said += f", {spoken(ranges)}"
    elif event.get("length"):
        said += f", {event['length']} bytes at offset {event.get('offset', 0)} of {event['tag']}"
    ends = f"track {event['tag']}" if command == "UNTRACK" else ""
    return _made(event, said, "cache", ranges, closes=ends, label=command)


def _tracked(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    ranges = runs(event)
    types = sorted({str(run["effective"]) for run in event.get("runs", ())})
    said = f"the cache model tracks buffer {event['tag']:#x} ({', '.join(types)}): {spoken(ranges)}"
    label = f"tracked, {', '.join(types)}"
    return _made(event, said, "cache", ranges, opens=f"track {event['tag']}", label=label)


def _walk(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    found = [
        f"{number(run['length'])} bytes at {number(run['physical']):#x} are {run['effective']}"
        f" (PAT entry {run['pat_index']})"
        for run in event.get("runs", ())[:_SHOWN]
    ]
    types = sorted({str(run["effective"]) for run in event.get("runs", ())})
    said = f"walk of page tables from {number(event['address']):#x}: {event['status']}"
    said += f"; {', '.join(found)}" if found else ""
    return _made(event, said, "other", runs(event), label=f"page type {', '.join(types)}")


def _cache_report(event: Event, buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    expected, seen = bytes.fromhex(event["expected"]), bytes.fromhex(event["seen"])
    size = max(len(expected), len(seen), 1)
    offset = number(event["offset"])
    first = next(
        (at for at, pair in enumerate(zip(expected, seen, strict=False)) if pair[0] != pair[1]), 0
    )
    ranges = _part(
        buffers.get(number(event["tag"]), ()), {"offset": max(0, offset), "length": size}
    )
    said = (
        f"REPORT {event['kind']}: line {event['line']} of buffer {event['tag']:#x}, from offset "
        f"{offset + first}, {event['lines']} in all; found by {event['by']}, after {event['last']}"
        f"; missing: {event['missing']}"
    )
    return _made(event, said, "fault", ranges, label=str(event["kind"]), report=(expected, seen))


def _message(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    return _made(event, f"interrupt: {event['event']} vector {event['vector']}", "other")


def _intx(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    return _made(event, f"interrupt: INTx {'raised' if event['level'] else 'lowered'}", "other")


def _protection(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    return _made(event, f"the protection unit is {'on' if event['enabled'] else 'off'}", "right")


def _mark(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    said = f"mark {event['number']} of the guest: what is granted here counts for its claim"
    return _made(event, said, "other")


def _board(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    how = "coherent: DMA is snooped" if event["snoop"] else "not coherent: DMA is not snooped"
    return _made(event, f"the board is {how}", "cache")


def _command(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    value = number(event["value"])
    master = "on" if value & 4 else "off"
    return _made(event, f"COMMAND register {value:#06x}: bus mastering is {master}", "other")


def _failed(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    return _made(event, f"THE DEVICE'S MODEL FAILED: {event.get('text')}", "fault")


def _other(event: Event, _buffers: Mapping[int, tuple[Range, ...]]) -> Moment:
    facts = [f"{name} {value}" for name, value in list(event.items())[:16] if name not in _COMMON]
    said = ", ".join(facts)
    return _made(event, f"{event['event']}: {said}" if said else str(event["event"]), "other")


def runs(event: Event) -> tuple[Range, ...]:
    """Return the physical memory that a walk found."""
    found = event.get("runs", ())[:_RANGES_MAX]
    return tuple((number(run["physical"]), number(run["length"])) for run in found)


def _part(ranges: tuple[Range, ...], event: Event) -> tuple[Range, ...]:
    """Return the part of a buffer that an event names by offset and length; 0 bytes: all of it."""
    offset, length = number(event.get("offset", 0)), number(event.get("length", 0))
    if not length:
        return ranges
    found = []
    for start, size in ranges:
        first, last = min(offset, size), min(offset + length, size)
        if first < last:
            found.append((start + first, last - first))
        length -= last - first
        offset = max(0, offset - size)
    return tuple(found)


_MAKERS: dict[str, Callable[[Event, Mapping[int, tuple[Range, ...]]], Moment | None]] = {
    "request": _request,
    "dma": _record,
    "grant": _grant,
    "withdraw": _withdraw,
    "withdraw owner": _withdraw_owner,
    "driver map": _driver_map,
    "driver unmap": _driver_unmap,
    "driver sync": _driver_sync,
    "driver report": _driver_report,
    "cache": _cache,
    "tracked": _tracked,
    "witness": _walk,
    "cache report": _cache_report,
    "msi-x": _message,
    "msi": _message,
    "intx": _intx,
    "protection": _protection,
    "board": _board,
    "mark": _mark,
    "command": _command,
    "model failed": _failed,
}
