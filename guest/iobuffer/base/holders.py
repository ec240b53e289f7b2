# SPDX-License-Identifier: Apache-2.0
"""The holders of a scarce resource: the end of "no memory" and "no room" messages."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.base.provenance import Record

SHOWN_MAX: Final = 8
_PROCESSES_MAX: Final = 4096  # that are looked at
_FILES_MAX: Final = 1024  # of each
_PROC: Final = Path("/proc")


def of_pools(names: Collection[str]) -> str:
    """Say which descriptors of this process have memory of these pools, the largest first."""
    return _words(lambda record: record.pool in names, "held here")


def of_the_bus() -> str:
    """Say which descriptors of this process have bus addresses now, the largest first."""
    return _words(
        lambda record: bool(record.segments and not record.completed_at), "on the bus from here"
    )


def _words(wanted: Callable[[Record], bool], what: str) -> str:
    found = [record for record in provenance.live() if wanted(record)]
    if not found:
        return f"{what}: nothing"
    total = sum(record.length for record in found)
    shown = [str(each) for each in heapq.nlargest(SHOWN_MAX, found, key=lambda one: one.length)]
    if len(found) > SHOWN_MAX:
        shown.append(f"and {len(found) - SHOWN_MAX} more")
    return f"{what}: {total} bytes in {len(found)} descriptors: {'; '.join(shown)}"


def of_others(path: Path, size: int) -> str:
    """Say which other processes have ``size`` bytes, by their open lock file; "" for no bytes."""
    if not size:
        return ""
    found = _openers(path)
    named = [f"process {pid} ({_command(pid)})" for pid in found[:SHOWN_MAX]]
    if len(found) > SHOWN_MAX:
        named.append(f"and {len(found) - SHOWN_MAX} more")
    who = " or ".join(named) or "which ones cannot be seen from here"
    return f"{size} bytes are held by other processes: {who}"


def _openers(path: Path) -> list[int]:
    """Return the other processes that have a file open, as far as this one may see that."""
    found = []
    for pid in _numbers(_PROC)[:_PROCESSES_MAX]:
        if pid == os.getpid():
            continue
        folder = _PROC / str(pid) / "fd"
        if any(_target(folder / str(fd)) == str(path) for fd in _numbers(folder)[:_FILES_MAX]):
            found.append(pid)
    return found


def _numbers(folder: Path) -> list[int]:
    try:
        names: Iterable[str] = os.listdir(folder)  # noqa: PTH208  # a list of names is enough
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def _target(link: Path) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115  # as text, to compare
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "ended"
