# SPDX-License-Identifier: Apache-2.0
"""The ELF file of a kernel module, with an address for each place in its code.

A module is a relocatable file: each of its sections begins at 0, and the kernel chooses where they
go. Here the sections with code lie far from each other, so that one number names a section and an
offset. The debug information is relocated to these addresses (the psABI of x86-64, 4.4.1).
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

_SPACING = 1 << 32
_RELA = struct.Struct("<QQq")  # Elf64_Rela
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_TO_64, _TO_32, _TO_32_SIGNED = 1, 10, 11  # R_X86_64_*
_CODE, _COMPRESSED = 4, 0x800  # SHF_*
_FUNCTION = 2  # STT_FUNC
_SIZE_MAX = 64 << 20  # bytes of an ELF file
_LINES_MAX = 16 << 20  # bytes of its line tables


class ModuleElf:
    """The code of a module. ValueError, or an error of pyelftools, for a damaged file."""

    def __init__(self, data: bytes) -> None:
        if len(data) > _SIZE_MAX:
            raise ValueError(f"it has more than {_SIZE_MAX >> 20} MiB")
        elf = ELFFile(io.BytesIO(data))
        if (elf.elfclass, elf["e_machine"], elf["e_type"]) != (64, "EM_X86_64", "ET_REL"):
            raise ValueError("it is not a relocatable file for x86-64")
        self._sections: list[Section] = list(elf.iter_sections())
        self._bases = {
            each.name: _SPACING * (number + 1)
            for number, each in enumerate(self._sections)
            if each["sh_flags"] & _CODE
        }
        self._sizes = {each.name: int(each["sh_size"]) for each in self._sections}
        self._data = bytearray(data)
        self._symbols = self._read_symbols()
        functions = [
            (value, name) for value, name, kind in self._symbols if kind == _FUNCTION and name
        ]
        self._functions = sorted(functions)
        self._relocate()

    def size_of(self, section: str) -> int:
        """Return the bytes of a section with code; 0 for any other."""
        return self._sizes[section] if section in self._bases else 0

    def address(self, section: str, offset: int) -> int:
        """Return the address of a place in a section with code; KeyError for another section."""
        return self._bases[section] + offset

    def function_at(self, address: int) -> tuple[str, int] | None:
        """Return the function at ``address``, by the symbols, and the offset in it."""
        at = bisect_right(self._functions, (address, "\U0010ffff")) - 1
        if at < 0 or self._functions[at][0] // _SPACING != address // _SPACING:
            return None
        value, name = self._functions[at]
        return name, address - value

    def debug_information(self) -> Any:
        """Return pyelftools's DWARFInfo, relocated; None without debug information."""
        elf = ELFFile(io.BytesIO(bytes(self._data)))
        lines = elf.get_section_by_name(".debug_line")
        if lines is None or lines["sh_size"] > _LINES_MAX or self._is_compressed():
            return None
        return elf.get_dwarf_info(relocate_dwarf_sections=False)

    def _is_compressed(self) -> bool:
        return any(
            each["sh_flags"] & _COMPRESSED
            for each in self._sections
            if each.name.startswith(".debug")
        )

    def _read_symbols(self) -> list[tuple[int, str, int]]:
        """Return each symbol's address, name and type."""
        table = next(
            (each for each in self._sections if isinstance(each, SymbolTableSection)), None
        )
        if table is None:
            return []
        names = table.stringtable.data()
        found = []
        for name, info, _, index, value, _ in _SYMBOL.iter_unpack(_whole(table.data(), _SYMBOL)):
            section = self._sections[index].name if index < len(self._sections) else ""
            end = names.find(b"\0", name)
            text = names[name:end].decode(errors="replace") if name < len(names) else ""
            found.append((self._bases.get(section, 0) + value, text, info & 0xF))
        return found

    def _relocate(self) -> None:
        """Write the addresses into the sections with debug information."""
        for target, table in self._relocations():
            start, size = int(target["sh_offset"]), int(target["sh_size"])
            for offset, info, addend in _RELA.iter_unpack(_whole(table.data(), _RELA)):
                kind, number = info & 0xFFFFFFFF, info >> 32
                width = {_TO_64: 8, _TO_32: 4, _TO_32_SIGNED: 4}.get(kind)
                if width is None or number >= len(self._symbols) or offset + width > size:
                    continue
                value = (self._symbols[number][0] + addend) & ((1 << 8 * width) - 1)
                place = start + offset
                if place + width <= len(self._data):
                    self._data[place : place + width] = value.to_bytes(width, "little")

    def _relocations(self) -> Iterator[tuple[Section, Section]]:
        """Yield each section with debug information that has relocations, and their table."""
        by_name = {each.name: each for each in self._sections}
        for name, target in by_name.items():
            if name.startswith(".debug_") and not target["sh_flags"] & _COMPRESSED:
                table = by_name.get(f".rela{name}")
                if table is not None:
                    yield target, table


def _whole(data: bytes, record: struct.Struct) -> bytes:
    return data[: len(data) - len(data) % record.size]
