# SPDX-License-Identifier: Apache-2.0
"""Functions and lines of a module's code, by its DWARF (DWARF 5, sections 3.3.8 and 6.2).

A call of the DMA API is often inlined: dma_map_single() of a kernel header, in a function of the
driver, in another one. A reader wants the innermost place in the driver's own files.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.host_harness.debug_info.module_elf import ModuleElf

# The headers of a kernel, wherever its tree is.
_KERNELS = re.compile(
    r"(?:^|/)(?:include/(?:linux|net|asm|asm-generic|uapi|generated|trace|vdso|kvm|xen|scsi|rdma|"
    r"drm|sound|media|crypto|acpi|target|video|dt-bindings)|arch/\w+/include)/"
)
_ENTRIES_MAX = 300_000  # DIEs that are looked at for one address
_DEPTH_MAX = 64
_ORIGINS_MAX = 4
_UNITS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source code. ``file`` is shown; ``is_own`` says that it is the driver's."""

    function: str
    file: str
    line: int
    is_own: bool

    def __str__(self) -> str:
        return f"{self.function} at {self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a line table: the code from ``address`` to the next row's."""

    address: int
    file: int
    line: int
    ends: bool
    unit: int


class SourcePlaces:
    """The lines of a module. ``root`` is the folder of its build, ``folder`` the one of its Kbuild.

    Errors of pyelftools, and ValueError, for damaged debug information.
    """

    def __init__(self, elf: ModuleElf, root: str = "", folder: str = ".") -> None:
        self._root, self._folder = root, folder
        self._dwarf = elf.debug_information()
        self._units: list[Any] = []
        self._rows: list[_Row] = []
        if self._dwarf is None:
            return
        for unit in self._dwarf.iter_CUs():
            if len(self._units) == _UNITS_MAX:
                break
            self._units.append(unit)
            self._rows += _rows(self._dwarf.line_program_for_CU(unit), len(self._units) - 1)
        self._rows.sort(key=lambda row: (row.address, not row.ends))
        self._starts = [row.address for row in self._rows]

    def find(self, address: int) -> Place | None:
        """Return the innermost place in the driver's own files, else the innermost one.

        None where no line is known.
        """
        frames = list(self._frames(address))
        return next((each for each in frames if each.is_own), frames[0] if frames else None)

    def _frames(self, address: int) -> Iterator[Place]:
        """Yield the places of ``address``, the innermost inlined function first."""
        if not self._rows:
            return
        row = self._rows[bisect_right(self._starts, address) - 1]
        if row.ends or address < row.address:
            return
        unit = self._units[row.unit]
        file, line = row.file, row.line
        for entry in reversed(self._nested(unit, address)):
            yield self._place(unit, self._name(entry), file, line)
            if entry.tag != "DW_TAG_inlined_subroutine":
                return
            file, line = _number(entry, "DW_AT_call_file"), _number(entry, "DW_AT_call_line")

    def _nested(self, unit: Any, address: int) -> list[Any]:
        """Return the functions around ``address``: one of the unit, and those inlined into it."""
        found: list[Any] = []
        entries = unit.get_top_DIE().iter_children()
        left = _ENTRIES_MAX
        for _ in range(_DEPTH_MAX):
            inner = None
            for entry in entries:
                left -= 1
                if left < 0:
                    return found
                if entry.tag in _AROUND and self._covers(unit, entry, address):
                    inner = entry
                    break
            if inner is None:
                return found
            if inner.tag != "DW_TAG_lexical_block":
                found.append(inner)
            entries = inner.iter_children()
        return found

    def _covers(self, unit: Any, entry: Any, address: int) -> bool:
        attributes = entry.attributes
        if "DW_AT_ranges" in attributes:
            offset = attributes["DW_AT_ranges"].value
            base = _number(unit.get_top_DIE(), "DW_AT_low_pc")
            listed = self._dwarf.range_lists().get_range_list_at_offset(offset, cu=unit)
            return any(start <= address < end for start, end in _ranges(listed, base))
        if "DW_AT_low_pc" not in attributes or "DW_AT_high_pc" not in attributes:
            return False
        start, high = _number(entry, "DW_AT_low_pc"), attributes["DW_AT_high_pc"]
        end = high.value if high.form == "DW_FORM_addr" else start + high.value
        return bool(start <= address < end)

    def _name(self, entry: Any) -> str:
        for _ in range(_ORIGINS_MAX):
            if "DW_AT_name" in entry.attributes:
                return str(entry.attributes["DW_AT_name"].value.decode(errors="replace"))
            for link in ("DW_AT_abstract_origin", "DW_AT_specification"):
                if link in entry.attributes:
                    entry = entry.get_DIE_from_attribute(link)
                    break
        return "?"

    def _place(self, unit: Any, function: str, file: int, line: int) -> Place:
        path = self._path(unit, file)
        inside = bool(self._root) and path.startswith(f"{self._root}/")
        if inside:
            shown = os.path.relpath(path, os.path.normpath(f"{self._root}/{self._folder}"))
        else:
            shown = os.path.basename(path)  # noqa: PTH119 - a path of another machine, perhaps
        return Place(function, shown or "?", line, inside or not _KERNELS.search(path))

    def _path(self, unit: Any, file: int) -> str:
        """Return the path of a file of a unit's line table; of one that is not there, nothing."""
        header = self._dwarf.line_program_for_CU(unit).header
        files, folders = header["file_entry"], header["include_directory"]
        before = 0 if header["version"] >= 5 else 1  # the index of the first one
        if not 0 <= file - before < len(files):
            return ""
        entry = files[file - before]
        folder = entry.dir_index - before
        parts = [folders[folder]] if 0 <= folder < len(folders) else []
        top = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        home = top.value if top is not None else b""
        names = (part.decode(errors="replace") for part in (home, *parts, entry.name))
        return str(os.path.normpath(os.path.join(*names)))  # noqa: PTH118


_AROUND = ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine", "DW_TAG_lexical_block")


def _rows(program: Any, unit: int) -> Iterator[_Row]:
    if program is None:
        return
    for entry in program.get_entries():
        state = entry.state
        if state is not None:
            yield _Row(state.address, state.file, state.line, state.end_sequence, unit)


def _ranges(listed: Iterable[Any], base: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a list, whose entries may be relative to a base address."""
    for entry in listed:
        if hasattr(entry, "base_address"):
            base = entry.base_address
        elif getattr(entry, "is_absolute", False):
            yield entry.begin_offset, entry.end_offset
        else:
            yield base + entry.begin_offset, base + entry.end_offset


def _number(entry: Any, attribute: str) -> int:
    found = entry.attributes.get(attribute)
    return int(found.value) if found is not None and isinstance(found.value, int) else 0
