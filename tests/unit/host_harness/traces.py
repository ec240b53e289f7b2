# SPDX-License-Identifier: Apache-2.0
"""Events as the device process writes them, for tests without one."""

from __future__ import annotations

from typing import Any

BUFFER = 0x1000


def request(
    sequence: int = 1,
    *ranges: tuple[int, int],
    write: bool = True,
    moved: int = 0,
    reason: str = "NONE",
    device: str = "exerciser",
    byte: int | None = None,
    nearest: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A request; of the 64 bytes at `BUFFER` where no ranges are given."""
    event = {
        "time": 0.1,
        "device": device,
        "test": "suite/test_x.py::test_x",
        "event": "request",
        "sequence": sequence,
        "write": write,
        "ranges": [[hex(start), length] for start, length in ranges or ((BUFFER, 64),)],
        "moved": moved,
        "reason": reason,
    }
    if byte is not None:
        event["byte"] = hex(byte)
    if nearest is not None:
        event["nearest"] = nearest
    return event


def facts(address: int, length: int, *, owner: int = 7, identity: int = 1) -> dict[str, Any]:
    """The facts of a grant in an event."""
    return {
        "id": identity,
        "address": hex(address),
        "length": length,
        "direction": "IN",
        "owner": hex(owner),
    }


def of_platform(event: str, **fields: Any) -> dict[str, Any]:
    """An event of the platform."""
    return {"time": 0.1, "device": "platform", "test": None, "event": event, **fields}


def grant(address: int, length: int, **more: int) -> dict[str, Any]:
    """The protection unit's grant."""
    return of_platform("grant", **facts(address, length, **more))


def protection(*, enabled: bool) -> dict[str, Any]:
    """The protection unit goes on or off."""
    return of_platform("protection", enabled=enabled)


def mark(number: int) -> dict[str, Any]:
    """A mark of the guest's."""
    return of_platform("mark", number=number)


def witness(*runs: tuple[int, int, int, str], status: str = "OK") -> dict[str, Any]:
    """A walk: runs of va, physical address, bytes and effective type, by Linux's IA32_PAT."""
    return of_platform(
        "witness",
        status=status,
        runs=[
            {
                "va": hex(va),
                "physical": hex(physical),
                "length": length,
                "effective": kind,
                "pat_index": {"WB": 0, "WC": 1, "UC_MINUS": 2, "UC": 3, "WT": 7}[kind],
            }
            for va, physical, length, kind in runs
        ],
    )
