# SPDX-License-Identifier: Apache-2.0
"""The events of the device process's trace, line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.timeline.drafts import (
    NS,
    Draft,
    Malformed,
    number,
    ranges,
    signed,
    text,
)
from dma_rehearsal.host_harness.timeline.events import (
    HOST,
    CacheMaintenance,
    CacheReport,
    Dma,
    DmaRecord,
    DriverCall,
    DriverReport,
    Event,
    Grant,
    Interrupt,
    Lost,
    MappedRun,
    Other,
    Protection,
    Reset,
    Revocation,
    Walk,
)
from dma_rehearsal.host_harness.verdict.driver_mappings import function_of

_LINE_MAX = 1 << 20  # bytes, as the host's verdict takes
_RUNS_MAX = 4096
_CALLERS_MAX = 4
_COMMON = frozenset(("time", "device", "test", "event"))
_Facts = Mapping[str, Any]
_Made = tuple[type[Event], dict[str, Any]]


def read(path: Path, vm: int) -> Iterator[Draft]:
    """Yield the events of a trace, in its order; nothing where there is no file.

    Lines that are not events are counted by a `Lost` at their end.
    """
    unreadable, newest = 0, 0
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        while line := file.readline(_LINE_MAX + 1):
            try:
                draft = _draft(line, vm)
            except (Malformed, KeyError, TypeError, RecursionError):
                unreadable += 1
                continue
            newest = draft.time_ns
            yield draft
    if unreadable:
        lost = {"source": f"{path.name}: lines that are not events", "count": unreadable}
        yield Draft(newest, vm, Lost, HOST, None, lost)


def _draft(line: bytes, vm: int) -> Draft:
    try:
        facts = json.loads(line)
    except ValueError as error:
        raise Malformed(str(error)) from None
    if not isinstance(facts, dict):
        raise Malformed("not an object")
    time, name = facts["time"], str(facts["event"])
    if not isinstance(time, int | float) or not 0 <= time < 1 << 40:
        raise Malformed("not a time")
    kind, fields = _MAKERS.get(name, _other)(facts)
    test = facts.get("test")
    device = text(facts["device"], 64)
    return Draft(round(time * NS), vm, kind, device, None if test is None else text(test), fields)


def _request(facts: _Facts) -> _Made:
    nearest, byte = facts.get("nearest"), facts.get("byte")
    attributes = facts.get("attributes") or {}
    return Dma, {
        "sequence": number(facts["sequence"]),
        "write": bool(facts["write"]),
        "segments": ranges(facts["ranges"]),
        "moved": number(facts["moved"]),
        "reason": text(facts["reason"], 64),
        "byte": None if byte is None else number(byte),
        "more": number(facts.get("more", 0)),
        "snooped": bool(facts.get("snooped", True)),
        "attributes": {text(name, 32): text(value, 32) for name, value in attributes.items()},
        "nearest_grant": None if nearest is None else number(nearest["id"]),
    }


def _dma(facts: _Facts) -> _Made:
    return DmaRecord, {
        "status": text(facts["status"], 64),
        "reason": text(facts["reason"], 64),
        "direction": text(facts["direction"], 64),
        **{
            name: number(facts[name])
            for name in ("sequence", "address", "length", "moved", "segments", "crc32")
        },
        "modelled_ns": number(facts.get("modelled_ns", 0)),
    }


def _grant(facts: _Facts) -> _Made:
    numbers = {name: number(facts[name]) for name in ("id", "address", "length", "owner")}
    return Grant, {**numbers, "direction": text(facts["direction"], 16)}


def _withdraw(facts: _Facts) -> _Made:
    return Revocation, {name: number(facts[name]) for name in ("id", "owner", "address", "length")}


def _withdraw_owner(facts: _Facts) -> _Made:
    return Revocation, {
        "id": None,
        "owner": number(facts["owner"]),
        "count": number(facts["count"]),
    }


def _protection(facts: _Facts) -> _Made:
    return Protection, {"enabled": bool(facts["enabled"])}


def _callers(facts: _Facts) -> tuple[int, ...]:
    return tuple(number(each) for each in (facts.get("callers") or ())[:_CALLERS_MAX])


def _driver_map(facts: _Facts) -> _Made:
    of = facts.get("of")
    length = number(facts["length"])
    return DriverCall, {
        "action": "map",
        "call": function_of(text(facts["call"], 64)),
        "buffer_tag": number(facts["tag"]),
        "segments": ((number(facts["address"]), length),),
        "length": length,
        "direction": text(facts["direction"], 16),
        "callers": _callers(facts),
        "whole": None if of is None else number(of),
        "grant_id": number(facts["id"]) if "id" in facts else None,
    }


def _driver_unmap(facts: _Facts) -> _Made:
    return DriverCall, {
        "action": "unmap",
        "call": function_of(text(facts["call"], 64)),
        "buffer_tag": number(facts["tag"]),
        "callers": _callers(facts),
    }


def _driver_sync(facts: _Facts) -> _Made:
    return DriverCall, {
        "action": "sync",
        "call": function_of(text(facts["call"], 64)),
        "buffer_tag": number(facts["tag"]),
        "offset": number(facts["offset"]),
        "length": number(facts["length"]),
        "direction": text(facts["direction"], 16),
        "toward": text(facts["to"], 16),
        "callers": _callers(facts),
    }


def _driver_report(facts: _Facts) -> _Made:
    tag = facts.get("tag")
    return DriverReport, {
        "kind": text(facts["kind"], 64),
        "call": function_of(text(facts["call"], 64)),
        "buffer_tag": None if tag is None else number(tag),
        "address": number(facts["address"]),
        "length": number(facts["length"]),
        "callers": _callers(facts),
    }


def _cache(facts: _Facts) -> _Made:
    return CacheMaintenance, {
        "command": text(facts["command"], 32),
        "buffer_tag": number(facts.get("tag", 0)),
        "offset": number(facts.get("offset", 0)),
        "length": number(facts.get("length", 0)),
        "direction": text(facts.get("direction"), 16),
    }


def _walk(facts: _Facts) -> _Made:
    runs = tuple(
        MappedRun(
            number(each["va"]),
            number(each["physical"]),
            number(each["length"]),
            text(each["effective"], 16),
        )
        for each in facts.get("runs", ())[:_RUNS_MAX]
    )
    tag = facts.get("tag")
    if tag is not None and "start" in facts:
        runs = _cut(runs, number(facts["start"]), number(facts["length"]))
    return Walk, {
        "status": text(facts.get("status", "OK"), 64),
        "runs": runs,
        "buffer_tag": None if tag is None else number(tag),
    }


def _cut(runs: tuple[MappedRun, ...], start: int, length: int) -> tuple[MappedRun, ...]:
    """Return the bytes of a buffer in the whole pages of its walk."""
    found = []
    for run in runs:
        low, high = max(run.va, start), min(run.va + run.length, start + length)
        if low < high:
            physical = run.physical + low - run.va
            found.append(MappedRun(low, physical, high - low, run.memory_type))
    return tuple(found)


def _cache_report(facts: _Facts) -> _Made:
    return CacheReport, {
        **{
            name: text(facts[name], 1024)
            for name in ("kind", "missing", "by", "last", "expected", "seen")
        },
        **{name: number(facts[name]) for name in ("line", "lines")},
        "buffer_tag": number(facts["tag"]),
        "other_tag": number(facts["other"]),
        "offset": signed(facts["offset"]),
    }


def _message(action: str) -> Callable[[_Facts], _Made]:
    def made(facts: _Facts) -> _Made:
        kind = text(facts.get("interrupt", facts["event"]), 16)
        return Interrupt, {"kind": kind, "vector": number(facts["vector"]), "action": action}

    return made


def _intx(facts: _Facts) -> _Made:
    action = "raised" if facts["level"] else "lowered"
    return Interrupt, {"kind": "intx", "vector": 0, "action": action}


def _reset(facts: _Facts) -> _Made:
    return Reset, {"kind": text(facts["kind"], 64)}


def _lost(facts: _Facts) -> _Made:
    return Lost, {"source": text(facts["event"], 64), "count": number(facts.get("count", 0))}


def _other(facts: _Facts) -> _Made:
    told = {text(name, 32): text(facts[name]) for name in list(facts)[:32] if name not in _COMMON}
    return Other, {"name": text(facts["event"], 64), "facts": told}


_MAKERS: dict[str, Callable[[_Facts], _Made]] = {
    "request": _request,
    "dma": _dma,
    "grant": _grant,
    "withdraw": _withdraw,
    "withdraw owner": _withdraw_owner,
    "protection": _protection,
    "driver map": _driver_map,
    "driver unmap": _driver_unmap,
    "driver sync": _driver_sync,
    "driver report": _driver_report,
    "cache": _cache,
    "witness": _walk,
    "tracked": _walk,
    "cache report": _cache_report,
    "msi-x": _message("sent"),
    "msi": _message("sent"),
    "pending": _message("pending"),
    "intx": _intx,
    "reset": _reset,
    "trace is full": _lost,
    "cache reports lost": _lost,
}
