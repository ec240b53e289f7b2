# SPDX-License-Identifier: Apache-2.0
"""A folder of a run, as small as a page needs it, with a refused DMA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEST = "suite/test_ring.py::test_one_byte_too_many"
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'\x1b[31m\u202e"
BUFFER = 0xC010000


def event(time: float, device: str, name: str, test: str | None = TEST, **facts: Any) -> Any:
    return {"time": time, "device": device, "test": test, "event": name, **facts}


def grant(number: int, address: int, length: int, direction: str, test: str | None = TEST) -> Any:
    facts = {"address": hex(address), "length": length, "direction": direction, "owner": "0x5"}
    return event(1.0, "platform", "grant", test, id=number, **facts)


def request(
    number: int,
    address: int,
    length: int,
    *,
    write: bool = False,
    reason: str = "NONE",
    **facts: Any,
) -> Any:
    moved = length if reason == "NONE" else 0
    facts = {"moved": moved, "reason": reason, **facts}
    ranges = [[hex(address), length]]
    return event(
        1.0 + number / 1000, "ring", "request", sequence=number, write=write, ranges=ranges, **facts
    )


EVENTS = (
    event(0.5, "platform", "protection", None, enabled=True),
    grant(6, BUFFER - 4096, 4096, "IN", None),
    grant(7, BUFFER, 4096, "OUT"),
    request(1, BUFFER, 64),
    request(2, BUFFER + 4033, 64, reason="PROTECTION_PAST_END", byte=hex(BUFFER + 4096)),
)
FAILURE = {
    "test": TEST,
    "when": "call",
    "vm": 1,
    "text": "def test():\n>   ring()\nE   ring: a read of 64 bytes at 0xc010fc1 was refused\n\n"
    "suite/test_ring.py:9: Refused",
    "sections": [["What the host saw", "a read was refused\n  why: it goes past the end\n"]],
    "memory": [
        {
            "address": BUFFER,
            "length": 4096,
            "name": "ring",
            "direction": "kIODirectionOut",
            "made": "suite/test_ring.py:5",
        }
    ],
}


def row(verdict: str = "kept", test: str = "suite/test_x.py::test_x", **facts: Any) -> Any:
    whole = {"promise": "alignment", "asked": "4096", "attested": "used at 0xc010000", "reason": ""}
    return {**whole, "verdict": verdict, "test": test, "facts": {}, "by": "evidence", **facts}


ROWS = (
    row(),
    row("broken", TEST, promise="kIODirectionOut", reason="a read was refused"),
)


def folder(
    place: Path,
    *,
    events: Sequence[Any] = EVENTS,
    failures: Sequence[Any] = (FAILURE,),
    rows: Sequence[Any] = ROWS,
    **facts: Any,
) -> Path:
    """Write the files into ``place``, and return it."""
    attested = {"passed": 1, "failed": len(failures), "promises": rows, "status": 1, **facts}
    (place / "attestations.json").write_text(json.dumps(attested))
    (place / "failures.json").write_text(json.dumps({"failures": failures, "left out": 0}))
    (place / "device-trace.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    (place / "replay").write_text(f"cd there && SEED=1 python -m x test {TEST} suite/t.py::t\n")
    (place / "status").write_text("1\n")
    return place
