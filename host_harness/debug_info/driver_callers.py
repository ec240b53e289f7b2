# SPDX-License-Identifier: Apache-2.0
"""The driver's place among the return addresses of a call of the DMA API, in words.

A return address follows the call, so the place is looked for at one byte before. The addresses, and
where the guest has loaded a module, are the guest's word: nothing but a wrong name comes of a wrong
one. Debug information that is damaged costs the names, and not the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dma_rehearsal.host_harness.debug_info.kernel_symbols import KernelSymbols, is_dma_api
from dma_rehearsal.host_harness.process import deadlines

_CALLERS_MAX = 8
_MODULES_MAX = 64
_PARSE_S = 20.0  # for the debug information of one module
_FIND_S = 5.0
_KERNELS = ""  # the name of the kernel itself among the loaded modules
_CACHED_MAX = 4096


@dataclass(frozen=True, slots=True)
class DebugModule:
    """A module's ELF file; ``root`` is the folder of its build, ``folder`` that of its Kbuild."""

    data: bytes
    root: str = ""
    folder: str = "."


class DriverCallers:
    """Names callers of drivers: "my_xmit at my.c:88", "nvme_map_data+0x4c", or an address.

    ``modules`` are those that the host has, by their names in /sys/module. ``symbols`` returns the
    kernel's own; it is called once, when a caller is in the kernel itself.
    """

    def __init__(
        self, modules: Mapping[str, DebugModule], symbols: Callable[[], KernelSymbols]
    ) -> None:
        self._modules = modules
        self._symbols = symbols
        self._kernel: KernelSymbols | None = None
        self._known: dict[str, _Known] = {}
        self._named: dict[tuple[str, str, int], _Name] = {}

    def name(self, callers: Sequence[int], loaded: Mapping[str, Mapping[str, int]]) -> str:
        """Return the driver's place among ``callers``, which are return addresses, innermost first.

        ``loaded`` has the addresses of sections, by the names of modules and sections.
        """
        addresses = [each for each in callers[:_CALLERS_MAX] if each > 0]
        places = [self._in_module(each, loaded) for each in addresses]
        if found := [place for place in places if place is not None]:
            return max(found, key=lambda place: place.worth).text  # of several the innermost
        return self._in_kernel(addresses) or (
            hex(addresses[0]) if addresses else "an unknown place"
        )

    def _in_module(self, address: int, loaded: Mapping[str, Mapping[str, int]]) -> _Name | None:
        for module in list(loaded)[:_MODULES_MAX]:
            if module == _KERNELS or module not in self._modules:
                continue
            known = self._known.get(module)
            if known is None:
                known = self._known[module] = _Known(module, self._modules[module])
            for section, start in loaded[module].items():
                offset = address - 1 - start
                if 0 <= offset < known.size_of(section):
                    key = module, section, offset
                    if key not in self._named and len(self._named) < _CACHED_MAX:
                        self._named[key] = known.name(section, offset)
                    return self._named.get(key)
        return None

    def _in_kernel(self, addresses: Sequence[int]) -> str:
        if self._kernel is None and addresses:
            self._kernel = self._symbols()
        names = []
        for address in addresses:
            found = self._kernel.at(address - 1) if self._kernel else None
            if found is not None:
                names.append(f"{found[0]}+{found[1] + 1:#x}")
                if not is_dma_api(found[0]):
                    return names[-1]
        return names[0] if names else ""


@dataclass(frozen=True, slots=True)
class _Name:
    """A name for a place, worth more when it has a line, and most when that is the driver's."""

    text: str
    worth: int


class _Known:
    """What is known of a module's code; nothing of a damaged one."""

    def __init__(self, name: str, module: DebugModule) -> None:
        # pyelftools and what it reads is imported when there is something to name.
        from dma_rehearsal.host_harness.debug_info.module_elf import ModuleElf
        from dma_rehearsal.host_harness.debug_info.source_places import SourcePlaces

        self._name = name
        self._elf: ModuleElf | None = None
        self._places: SourcePlaces | None = None
        try:
            with deadlines.alarm("names", _PARSE_S):
                self._elf = ModuleElf(module.data)
                self._places = SourcePlaces(self._elf, module.root, module.folder)
        except Exception:
            return  # pyelftools raises whatever a damaged file makes it raise

    def size_of(self, section: str) -> int:
        return self._elf.size_of(section) if self._elf else 0

    def name(self, section: str, offset: int) -> _Name:
        if self._elf is None:
            raise ValueError(f"{self._name} has no section {section}")
        address = self._elf.address(section, offset)
        if self._places is not None:
            try:
                with deadlines.alarm("names", _FIND_S):
                    place = self._places.find(address)
            except Exception:
                self._places = place = None
            if place is not None:
                return _Name(str(place), 2 if place.is_own else 1)
        function = self._elf.function_at(address)
        where = f"{function[0]}+{function[1] + 1:#x}" if function else f"{section}+{offset + 1:#x}"
        return _Name(f"{where} [{self._name}]", 0)
