# SPDX-License-Identifier: Apache-2.0
"""A kernel module as small as it can be: an ELF file with a .modinfo, and few other sections."""

from __future__ import annotations

import struct
from collections.abc import Mapping

_ENTRY = struct.Struct("<IIQQQQIIQQ")


def module(modinfo: bytes, section: bytes = b".modinfo") -> bytes:
    """Return a 64-bit ELF file with the sections "", ``section`` and .shstrtab."""
    return with_sections({section: modinfo})


def with_sections(contents: Mapping[bytes, bytes]) -> bytes:
    """Return a 64-bit ELF file with an empty section, these, and .shstrtab."""
    names, body = b"\0", b""
    sections = [_ENTRY.pack(*[0] * 10)]
    for name, data in (*contents.items(), (b".shstrtab", b"")):
        start = len(names)
        names += name + b"\0"
        data = data or names
        kind = 1 if name in contents else 3
        sections.append(_ENTRY.pack(start, kind, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0))
        body += data
    table, count = 64 + len(body), len(sections)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, count, count - 1
    )
    return header + body + b"".join(sections)
