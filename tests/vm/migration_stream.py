# SPDX-License-Identifier: Apache-2.0
"""A CPU's state out of a migration stream: the one place where a host can read IA32_PAT.

The stream ends with a description of its own sections in JSON, so that a section's fields can be
found by name (QEMU, docs/devel/migration/main.rst).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

_MAGIC = b"QEVM"
_SECTION_FULL, _DESCRIPTION = 0x04, 0x06
_LENGTH = struct.Struct(">I")


def fields(stream: bytes, device: str) -> dict[str, bytes]:
    """Return the fields of the first section of a device by name; arrays' elements are joined.

    ValueError for data that is not a stream, or lacks the section.
    """
    if not stream.startswith(_MAGIC):
        raise ValueError("no migration stream")
    described = next(each for each in _description(stream)["devices"] if each["name"] == device)
    # Type, section id, length and text of the name, instance, version: then the fields follow. The
    # devices come last, behind RAM, in which these bytes may stand as well.
    words = struct.pack(">II", described["instance_id"], described["version"])
    named = bytes([len(device)]) + device.encode() + words
    header = re.compile(bytes([_SECTION_FULL]) + b"." * 4 + re.escape(named), re.DOTALL)
    *_, last = header.finditer(stream)
    position = last.end()
    found: dict[str, bytes] = {}
    for field, size in _sizes(described["fields"]):
        found[field] = found.get(field, b"") + stream[position : position + size]
        position += size
    return found


def _description(stream: bytes) -> dict[str, Any]:
    """Return the JSON behind the last section."""
    place = stream.rindex(b'{"configuration"')
    head = stream[place - 1 - _LENGTH.size : place]
    if head[0] != _DESCRIPTION:
        raise ValueError("the stream has no description")
    (length,) = _LENGTH.unpack(head[1:])
    described: dict[str, Any] = json.loads(stream[place : place + length])
    return described


def _sizes(described: list[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield name and bytes of each field, in order; those in a structure by its name, too."""
    for field in described:
        for _ in range(field.get("array_len", 1) if "index" not in field else 1):
            if "struct" in field:
                yield from _sizes(field["struct"]["fields"], f"{prefix}{field['name']}.")
            else:
                yield prefix + field["name"], field["size"]
