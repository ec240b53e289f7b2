# SPDX-License-Identifier: Apache-2.0
"""QEMU's saved machine state: has QEMU write and load its file, and reads the CPUs there.

The file is a migration stream (QEMU, docs/devel/migration/main.rst), without the RAM, which QEMU
shares with the harness:

    "QEVM", version 3, configuration, RAM
    a section for each device:  04, section id, name, instance, version, fields;  7e, section id
    00;  06, length, a description of these sections' fields in JSON

QEMU writes the description, and the guest has a say in the fields' values only. So the sections are
found from the end, by the sizes that the description states, and no value is searched for anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError

SAVE_LIMIT_S = 20.0
"""The time that QEMU may take to write the state; usually 10 ms."""

_WITHOUT_RAM = "x-ignore-shared"
_POLL_MIN_S, _POLL_MAX_S = 0.001, 0.05

_HEADER = b"QEVM" + (3).to_bytes(4, "big")
_END, _FULL, _DESCRIPTION, _FOOTER = 0x00, 0x04, 0x06, 0x7E
_U32 = struct.Struct(">I")
_STREAM_MAX, _DESCRIPTION_MAX = 64 << 20, 8 << 20  # bytes; QEMU 11 writes 300 kB and 30 kB
_NUMBER_MAX, _NAME_MAX = (1 << 32) - 1, 255
_FIXED_COUNT, _RANGE_COUNT = 11, 8  # QEMU, target/i386/cpu.h
_WORD = 8  # bytes

Table = dict[str, Any]


class StreamError(Exception):
    """A file is not a saved machine state, or not one that states what is asked for."""


class SaveError(MonitorError):
    """QEMU did not save its machine state."""


@dataclass(frozen=True, slots=True)
class MemoryTypeRegisters:
    """IA32_PAT and the MTRRs of one CPU, as values of 64 bits (Intel SDM vol. 3A, 12.11, 12.12).

    ``fixed`` are the 11 fixed-range registers by ascending address, ``ranges`` the 8 pairs of
    PHYSBASE and PHYSMASK.
    """

    pat: int
    def_type: int
    fixed: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


def save(monitor: Monitor, path: Path, limit_s: float = SAVE_LIMIT_S) -> None:
    """Have QEMU write the state of a stopped machine to the file ``path``, without its shared RAM.

    The machine stays stopped. "cont" resumes it, and must come before another save. QEMU makes the
    file, or overwrites it; only its owner may read it. SaveError when QEMU refuses, fails, or takes
    more than ``limit_s`` seconds: the file is removed then, and "cont" still resumes the machine.
    """
    try:
        _set_capability(monitor, on=True)
        try:
            _migrate(monitor, path, time.monotonic() + limit_s)
        finally:
            with contextlib.suppress(MonitorError):
                _set_capability(monitor, on=False)
    except MonitorError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise SaveError(f"QEMU did not save its machine state: {error}") from error


def load(monitor: Monitor, path: Path, limit_s: float) -> None:
    """Have a QEMU that waits for a state (``-incoming defer``) load the one in the file ``path``.

    Its shared RAM is there already. "cont" then resumes the machine. MonitorError when QEMU
    refuses, fails, or takes more than ``limit_s`` seconds.
    """
    _set_capability(monitor, on=True)
    # By default a QEMU that cannot load ends, and its monitor does not tell why.
    how: dict[str, Any] = {"exit-on-error": False}
    monitor.command("migrate-incoming", channels=_channels(path), **how)
    if not _await_completed(monitor, "QEMU does not load the state", time.monotonic() + limit_s):
        raise MonitorError(f"the state is not loaded within {limit_s:g} s")


def _set_capability(monitor: Monitor, *, on: bool) -> None:
    wanted = {"capability": _WITHOUT_RAM, "state": on}
    monitor.command("migrate-set-capabilities", capabilities=[wanted])


def _migrate(monitor: Monitor, path: Path, deadline: float) -> None:
    monitor.command("migrate", channels=_channels(path))
    if not _await_completed(monitor, "migrate", deadline):
        monitor.command("migrate_cancel")
        raise MonitorError("migrate: not completed within its deadline")


def _channels(path: Path) -> list[dict[str, object]]:
    place = {"transport": "file", "filename": os.fspath(path.absolute()), "offset": 0}
    return [{"channel-type": "main", "addr": place}]


def _await_completed(monitor: Monitor, failure: str, deadline: float) -> bool:
    """Return whether a migration completes in time. MonitorError, ``failure``, when it fails."""
    pause = _POLL_MIN_S
    while (said := monitor.command("query-migrate")).get("status") != "completed":
        if said.get("status") in ("failed", "cancelled"):
            raise MonitorError(f"{failure}: {said.get('error-desc') or said['status']}")
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _POLL_MAX_S)
    return True


def read_cpus(path: Path) -> dict[int, MemoryTypeRegisters]:
    """Return the registers of all CPUs in a saved state, by CPU index. StreamError as `cpus_of`."""
    try:
        with path.open("rb") as file:
            stream = file.read(_STREAM_MAX + 1)
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror}") from error
    return cpus_of(stream)


def cpus_of(stream: bytes) -> dict[int, MemoryTypeRegisters]:
    """Return the registers of all CPUs in a migration stream, by CPU index.

    StreamError for data that is truncated, too long, or not such a stream.
    """
    found: dict[int, MemoryTypeRegisters] = {}
    for table, data in _sections(stream):
        if table["name"] == "cpu":
            index = _number(table, "instance_id")
            if index in found:
                raise StreamError(f"the saved state has CPU {index} twice")
            found[index] = _registers(table, data)
    if not found:
        raise StreamError("the saved state has no CPU")
    return found


def _sections(stream: bytes) -> Iterator[tuple[Table, bytes]]:
    """Yield the description of each device's section, and the bytes of its fields."""
    tables, end = _description(stream)
    headers = [_header(each) for each in tables]
    sizes = [_size(each) for each in tables]
    # Around header and fields: type and section id; version; footer and section id.
    whole = sum(sizes) + sum(len(each) + 2 + 3 * _U32.size for each in headers)
    position = end - whole
    if position < len(_HEADER):
        raise StreamError(f"the saved state is shorter than the {whole} bytes of its devices")
    for table, header, size in zip(tables, headers, sizes, strict=True):
        kind, section = stream[position], stream[position + 1 : position + 1 + _U32.size]
        position += 1 + _U32.size
        in_place = kind == _FULL and stream.startswith(header, position)
        position += len(header)
        version = stream[position : position + _U32.size]
        # Old devices' descriptions state no version.
        in_place &= "version" not in table or version == _U32.pack(_number(table, "version"))
        position += _U32.size
        fields = stream[position : position + size]
        position += size
        if not in_place or not stream.startswith(bytes([_FOOTER]) + section, position):
            raise StreamError(f"the saved state has no section of {table['name']!r:.60} in place")
        position += 1 + _U32.size
        yield table, fields


def _description(stream: bytes) -> tuple[list[Table], int]:
    """Return the devices' descriptions, and the offset of the byte that ends their sections."""
    if len(stream) > _STREAM_MAX:
        raise StreamError(f"the saved state has more than {_STREAM_MAX} bytes")
    if not stream.startswith(_HEADER):
        raise StreamError("the file is not a saved machine state of QEMU")
    # The text has no such byte. Its length, which is between them, may have some.
    place = len(stream)
    for _ in range(1 + _U32.size):
        place = stream.rfind(bytes([_DESCRIPTION]), 0, place)
        text = place + 1 + _U32.size
        length = _U32.pack(max(0, len(stream) - text))
        if place > 0 and stream[place - 1] == _END and stream[place + 1 : text] == length:
            break
    else:
        raise StreamError("the saved state does not end with a description: it may be truncated")
    if len(stream) - text > _DESCRIPTION_MAX:
        raise StreamError("the description of the saved state is too long")
    try:
        told = json.loads(stream[text:])
    except (ValueError, RecursionError) as error:
        raise StreamError(f"the description of the saved state is malformed: {error}") from error
    return _tables(told, "devices"), place - 1


def _header(table: Table) -> bytes:
    """Return a section's header between its id and its version."""
    return _name(table, "name") + _U32.pack(_number(table, "instance_id"))


def _size(table: Table) -> int:
    """Return the bytes of a section's fields and subsections."""
    size = sum(_field_size(each) for each in _tables(table, "fields"))
    for each in _tables(table, "subsections") if "subsections" in table else ():
        size += 1 + len(_name(each, "vmsd_name")) + _U32.size + _size(each)
    return size


def _field_size(field: Table) -> int:
    count = _number(field, "array_len") if "array_len" in field else 1
    return _number(field, "size") * count


def _registers(table: Table, data: bytes) -> MemoryTypeRegisters:
    """Return the registers of one CPU's section."""
    fields: dict[str, bytes] = {}
    position = 0
    for field in _tables(table, "fields"):
        name, end = field.get("name"), position + _field_size(field)
        if isinstance(name, str):
            fields[name] = fields.get(name, b"") + data[position:end]
        if name == "env.mtrr_var":
            _check_range(field)
        position = end
    (pat,) = _words(fields, "env.pat", 1)
    (def_type,) = _words(fields, "env.mtrr_deftype", 1)
    fixed = _words(fields, "env.mtrr_fixed", _FIXED_COUNT)
    ranges = _words(fields, "env.mtrr_var", 2 * _RANGE_COUNT)
    return MemoryTypeRegisters(
        pat, def_type, fixed, tuple(zip(ranges[::2], ranges[1::2], strict=True))
    )


def _check_range(field: Table) -> None:
    inner = field.get("struct")
    parts = _tables(inner, "fields") if isinstance(inner, dict) else []
    if [(each.get("name"), each.get("size")) for each in parts] != [
        ("base", _WORD),
        ("mask", _WORD),
    ]:
        raise StreamError("the saved state describes variable-range MTRRs that are not known")


def _words(fields: dict[str, bytes], name: str, count: int) -> tuple[int, ...]:
    data = fields.get(name, b"")
    if len(data) != count * _WORD:
        raise StreamError(f"the saved state of a CPU has {len(data)} bytes of {name}")
    return struct.unpack(f">{count}Q", data)


def _tables(table: object, name: str) -> list[Table]:
    found = table.get(name) if isinstance(table, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise StreamError(f"the description of the saved state has malformed {name}")
    return found


def _number(table: Table, name: str) -> int:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _NUMBER_MAX:
        raise StreamError(f"the description of the saved state has the {name} {value!r:.40}")
    return value


def _name(table: Table, key: str) -> bytes:
    """Return a name as the stream has it, behind its length."""
    name = table.get(key)
    if not isinstance(name, str) or not name.isascii() or len(name) > _NAME_MAX:
        raise StreamError(f"the description of the saved state has the {key} {name!r:.60}")
    return bytes([len(name)]) + name.encode()
