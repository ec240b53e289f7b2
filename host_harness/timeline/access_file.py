# SPDX-License-Identifier: Apache-2.0
"""The accesses to registers that the device process logged (`device/layout/access_records.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dma_rehearsal.device.layout.access_records import (
    ACCESS_MAGIC,
    ACCESS_TEXT_MAX,
    AccessKind,
    AccessRecord,
)
from dma_rehearsal.host_harness.timeline.drafts import Draft, text
from dma_rehearsal.host_harness.timeline.events import HOST, Lost, RegisterAccess

_NAMES_MAX = 1 << 16
_KINDS = {int(each): each for each in AccessKind}


@dataclass(slots=True)
class _Names:
    """The names that the file has told so far."""

    functions: dict[int, str] = field(default_factory=dict)
    registers: dict[tuple[int, int, int], tuple[str, bool]] = field(default_factory=dict)

    def tell(self, kind: AccessKind, record: AccessRecord, name: str) -> None:
        """Take the name of a function or of a register."""
        if kind is AccessKind.FUNCTION:
            if len(self.functions) < _NAMES_MAX:
                self.functions[record.function] = name
        elif len(self.registers) < _NAMES_MAX:
            place = record.function, record.region, record.offset
            self.registers[place] = name, bool(record.value)


def read(path: Path, vm: int) -> Iterator[Draft]:
    """Yield the accesses, without the test; nothing where there is no such file.

    A record that cannot be read ends it: a `Lost` tells.
    """
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        if file.read(len(ACCESS_MAGIC)) == ACCESS_MAGIC:
            yield from _records(file, path.name, vm)


def _records(file: BinaryIO, name: str, vm: int) -> Iterator[Draft]:
    names, newest = _Names(), 0
    while data := file.read(AccessRecord.SIZE):
        record = AccessRecord.unpack(data) if len(data) == AccessRecord.SIZE else None
        kind = None if record is None else _KINDS.get(record.kind)
        if record is None or kind is None or record.time_ns >> 63:
            lost = {"source": f"{name}: it cannot be read from here on"}
            yield Draft(newest, vm, Lost, HOST, None, lost)
            return
        if kind in (AccessKind.FUNCTION, AccessKind.REGISTER):
            said = file.read(min(record.length, ACCESS_TEXT_MAX))
            names.tell(kind, record, text(said.decode(errors="replace"), ACCESS_TEXT_MAX))
            continue
        newest = record.time_ns
        if kind is AccessKind.LOST:
            lost_here = {"source": "accesses to registers", "count": record.count}
            yield Draft(newest, vm, Lost, HOST, None, lost_here)
        else:
            yield _access(record, names, vm, write=kind is AccessKind.WRITE)


def _access(record: AccessRecord, names: _Names, vm: int, *, write: bool) -> Draft:
    device = names.functions.get(record.function, "?")
    register, acts = names.registers.get(
        (record.function, record.region, record.offset), ("", False)
    )
    fields = {
        "write": write,
        "region": record.region,
        "offset": record.offset,
        "register": register,
        "value": record.value,
        "length": record.length,
        "count": record.count,
        "span_ns": record.span_us * 1000,
        "acts": acts,
    }
    return Draft(record.time_ns, vm, RegisterAccess, device, None, fields)
