# SPDX-License-Identifier: Apache-2.0
"""The shared libraries that an ELF file asks for, by its dynamic section (System V ABI, chapter 5).

They are read from the file: a loader that lacks one library lists none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment import kernel_module

MAGIC = b"\x7fELF\x02\x01\x01"
"""The start of a 64-bit file for a little-endian machine."""

_ENTRY = struct.Struct("<QQ")  # Elf64_Dyn: d_tag, d_val
_NEEDED, _RPATH, _RUNPATH = 1, 15, 29  # DT_NEEDED and so on: values are offsets in .dynstr


@dataclass(frozen=True, slots=True)
class Libraries:
    """The names that a file needs, and the folders in which it looks for them first."""

    needed: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()


def read(path: Path) -> Libraries:
    """Return what an ELF file asks for; nothing for another file, and for one that is static."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return Libraries()
    data = path.read_bytes()
    try:
        dynamic = kernel_module.section(data, b".dynamic")
        names = kernel_module.section(data, b".dynstr")
    except (ValueError, struct.error, IndexError):
        return Libraries()
    needed: list[str] = []
    folders: list[str] = []
    for tag, value in _ENTRY.iter_unpack(dynamic[: len(dynamic) // _ENTRY.size * _ENTRY.size]):
        if tag in (_NEEDED, _RPATH, _RUNPATH):
            text = names[value:].partition(b"\0")[0].decode(errors="replace")
            if tag == _NEEDED:
                needed.append(text)
            else:
                folders += text.split(":")
    return Libraries(tuple(needed), tuple(each for each in folders if each))
