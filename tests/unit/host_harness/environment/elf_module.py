# SPDX-License-Identifier: Apache-2.0
"""A kernel module as small as it can be: an ELF file with a .modinfo."""

from __future__ import annotations

import struct


def module(modinfo: bytes, section: bytes = b".modinfo") -> bytes:
    """Return a 64-bit ELF file with the sections "", ``section`` and .shstrtab."""
    names = b"\0" + section + b"\0.shstrtab\0"
    body = 64
    table = body + len(modinfo) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    entry = struct.Struct("<IIQQQQIIQQ")
    sections = [
        entry.pack(*[0] * 10),
        entry.pack(1, 1, 0, 0, body, len(modinfo), 0, 0, 1, 0),
        entry.pack(2 + len(section), 3, 0, 0, body + len(modinfo), len(names), 0, 0, 1, 0),
    ]
    return header + modinfo + names + b"".join(sections)
