# SPDX-License-Identifier: Apache-2.0
"""Events and properties of a kernel driver's rehearsal, for tests without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from tests.unit.host_harness.traces import facts, of_platform

TAG = 0x8000_0001
MAPPED_AT, UNMAPPED_AT, TEXT = 0x1100, 0x1200, 0x1000


def mapped(
    tag: int = TAG,
    address: int = 0x1000,
    length: int = 64,
    *,
    call: str = "MAP_PAGE",
    direction: str = "IN",
    of: int | None = None,
    callers: Sequence[int] = (MAPPED_AT,),
    granted: bool = True,
) -> dict[str, Any]:
    """A mapping; with the grant, unless the protection unit was not told."""
    grant = facts(address, length, owner=MAIL_OWNER_BASE | tag, identity=tag)
    place = {"address": hex(address), "length": length}
    return of_platform(
        "driver map",
        tag=hex(tag),
        of=None if of is None else hex(of),
        call=call,
        callers=[hex(each) for each in callers],
        **(grant if granted else place) | {"direction": direction},
    )


def unmapped(tag: int = TAG, *, call: str = "UNMAP_PAGE") -> dict[str, Any]:
    """The end of a mapping."""
    return of_platform(
        "driver unmap",
        tag=hex(tag),
        call=call,
        owner=hex(MAIL_OWNER_BASE | tag),
        count=1,
        callers=[hex(UNMAPPED_AT)],
    )


def synced(tag: int = TAG, to: str = "device") -> dict[str, Any]:
    """A sync."""
    return of_platform(
        "driver sync",
        tag=hex(tag),
        call="SYNC_SINGLE_FOR_CPU" if to == "CPU" else "SYNC_SINGLE_FOR_DEVICE",
        to=to,
        offset=0,
        length=64,
        direction="IN",
        callers=[hex(UNMAPPED_AT)],
    )


def report(
    kind: str, tag: int | None = TAG, values: Sequence[int] = (0, 0), call: str = "UNMAP_PAGE"
) -> dict[str, Any]:
    """A report of the module."""
    return of_platform(
        "driver report",
        kind=kind,
        call=call,
        tag=None if tag is None else hex(tag),
        address="0x1000",
        length=64,
        offset=0,
        direction="IN",
        values=list(values),
        callers=[hex(UNMAPPED_AT)],
        told_by="guest",
    )


def cache_report(
    kind: str = "RELEASED_UNREAD",
    missing: str = "SYNC_FOR_CPU_AFTER_RECEIVE",
    by: str = "UNTRACK",
    tag: int = TAG,
) -> dict[str, Any]:
    """A report of the cache model."""
    return of_platform(
        "cache report",
        kind=kind,
        missing=missing,
        by=by,
        last="NO_SNOOP_WRITE",
        tag=tag,
        other=tag,
        line=0,
        lines=1,
        offset=0,
        number=9,
        last_number=8,
        expected="00",
        seen="01",
    )


def run(mark: int = 1, condition: str = "held", driver: str = "my_driver") -> tuple[str, Any]:
    """The property of a binding."""
    loaded = {driver: {".text": TEXT}, "": {"_stext": 0xFFFF_FFFF_8100_0000}}
    value = {"mark": mark, "driver": driver, "condition": condition, "loaded": loaded}
    return "driver run", value


def expects(
    *kinds: str, first: int = 1, last: int = 2, count: int | None = None, optional: bool = False
) -> tuple[str, Any]:
    """The property of an announcement."""
    value = {"kinds": list(kinds), "first": first, "last": last, "count": count}
    return "driver expects", {**value, "optional": optional}


_NAMES = {MAPPED_AT: "my_fill at my.c:88", UNMAPPED_AT: "my_poll at my.c:120"}


class Names:
    """Names callers by a table."""

    def name(self, callers: Sequence[int], loaded: Any) -> str:
        """Return the name of the innermost caller; the module must be known as loaded."""
        assert loaded["my_driver"][".text"] == TEXT
        return _NAMES[callers[0]]
