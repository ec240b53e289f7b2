# SPDX-License-Identifier: Apache-2.0
"""A program or a shared library as small as it can be: an ELF file with a dynamic section alone."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.unit.host_harness.environment.elf_module import with_sections

LIBRARIES = "usr/lib/x86_64-linux-gnu"
_NEEDED, _SONAME, _RUNPATH = 1, 14, 29


def write(path: Path, *needed: str, runpath: str = "") -> Path:
    """Write a file with a dynamic section alone."""
    names = b"\0"
    entries = b""
    for tag, text in (
        *((_NEEDED, name) for name in needed),
        (_SONAME, path.name),
        (_RUNPATH, runpath),
    ):
        if text:
            entries += struct.pack("<QQ", tag, len(names))
            names += text.encode() + b"\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(with_sections({b".dynamic": entries + bytes(16), b".dynstr": names}))
    return path
