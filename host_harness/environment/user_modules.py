# SPDX-License-Identifier: Apache-2.0
"""The kernel modules under test: those that MODULE= names, and the kernel's own that DRIVER= names.

A user's module is built with debug information. The host keeps it whole, to name functions and
lines; the guest gets it without. Modules are cached by the digest of their sources, the kernel and
the flags. They go into the payload, so saved states see a changed module as any changed file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dma_rehearsal.host_harness.environment import (
    kernel_modules,
    module_entry,
    module_file,
    module_sources,
)
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.environment.module_entry import Entry, Note
from dma_rehearsal.host_harness.environment.module_file import ModuleFile
from dma_rehearsal.host_harness.process.errors import UsageError

LISTING = "modules.json"
_OWN = ("dma_rehearsal", "dma_rehearsal_ops")
_NEAR_MAX = 5


@dataclass(frozen=True, slots=True)
class DebugFile:
    """A module as the host has it: its ELF file, with debug information where it has some.

    ``root`` is the folder in which it was built, empty for a module that was not built here, and
    ``folder`` that of its Kbuild, below ``root``.
    """

    data: bytes
    root: str = ""
    folder: str = "."


@dataclass(frozen=True, slots=True)
class Module:
    """A module under test, or one that it needs. ``data`` is None for one in the kernel itself."""

    name: str
    data: bytes | None
    depends: tuple[str, ...] = ()
    debug: DebugFile | None = None


@dataclass(frozen=True, slots=True)
class UserModules:
    """The modules of a run, each after those that it needs, and what the compiler warned of."""

    modules: tuple[Module, ...] = ()
    warnings: tuple[str, ...] = ()

    def files(self) -> dict[str, bytes]:
        """Return the files for the guest, by their names; none without modules."""
        if not self.modules:
            return {}
        listed = [
            {
                "name": each.name,
                "file": None if each.data is None else f"{each.name}.ko",
                "depends": list(each.depends),
            }
            for each in self.modules
        ]
        found = {f"{each.name}.ko": each.data for each in self.modules if each.data is not None}
        return {LISTING: (json.dumps({"modules": listed}, indent=1) + "\n").encode(), **found}

    def debug_files(self) -> dict[str, DebugFile]:
        """Return the modules with debug information, or at least symbols, by their names."""
        return {each.name: each.debug for each in self.modules if each.debug is not None}


NO_MODULES = UserModules()


def check(modules: Iterable[str]) -> None:
    """Raise UsageError when MODULE names something of which no module can be made."""
    for text in modules:
        module_sources.find(text)


def make(
    modules: Sequence[str], driver: str | None, kernel: KernelTree, progress: Note
) -> UserModules:
    """Return the modules under test, built for ``kernel`` where the cache lacks them.

    UsageError for a module that does not build, that the kernel would refuse, or that does not
    exist; EnvironmentFailure when no compiler can be used here.
    """
    if not modules and driver is None:
        return NO_MODULES
    made: list[Entry] = []
    for text in modules:
        made.append(module_entry.make(text, kernel, progress, made))
    own = [module for each in made for module in _modules(each)]
    _check_names([each.name for each in own], kernel)
    warnings = tuple(each.warnings for each in made if each.warnings)
    ordered = _ordered({each.name: each for each in own}, driver, kernel)
    return UserModules(tuple(ordered), warnings)


def _modules(entry: Entry) -> list[Module]:
    found = []
    for name in entry.files:
        data = entry.for_guest(name)
        file = module_file.of(data, name)
        debug = DebugFile(entry.for_host(name), entry.root, entry.kbuild_folder)
        found.append(Module(file.name, data, _needs(file), debug))
    return found


def _ordered(own: Mapping[str, Module], driver: str | None, kernel: KernelTree) -> list[Module]:
    """Return the user's modules, the driver's and all that they need, dependencies first."""
    known = kernel_modules.paths(kernel)
    wanted = [each for module in own.values() for each in module.depends if each not in own]
    wanted += [driver] if driver else []
    if driver in kernel_modules.closure(kernel, wanted, known)[1]:
        raise _unknown(driver, kernel, known)
    found: dict[str, Module] = {}
    while wanted:  # closure does not follow softdep=
        before: list[str] = []
        for path in kernel_modules.closure(kernel, wanted, known)[0]:
            data = kernel_modules.contents(path)
            file = module_file.of(data, path.name)
            if file.name not in found:
                found[file.name] = Module(file.name, data, _needs(file), DebugFile(data))
                before += file.pre
        wanted = before
    if driver and kernel_modules.is_builtin(kernel, driver):
        name = kernel_modules.normal(driver)
        found[name] = Module(name, None)
    found |= own
    order: dict[str, Module] = {}

    def add(name: str) -> None:
        module = found.pop(name, None)
        if module is None:
            return  # it is listed already, or it is in the kernel itself
        for needed in module.depends:
            add(needed)
        there = tuple(each for each in module.depends if each in order)
        order[name] = replace(module, depends=there)

    for name in list(found):
        add(name)
    return list(order.values())


def _needs(file: ModuleFile) -> tuple[str, ...]:
    return tuple(kernel_modules.normal(name) for name in (*file.pre, *file.depends))


def _unknown(driver: str, kernel: KernelTree, known: Mapping[str, Path]) -> UsageError:
    names = sorted({*known, *kernel.builtin})
    near = difflib.get_close_matches(kernel_modules.normal(driver), names, _NEAR_MAX)
    hint = f"similar names: {', '.join(near)}" if near else "modinfo or /sys/module has its name"
    return UsageError(
        f"DRIVER={driver}: the kernel {kernel.release} has no driver of this name, neither built "
        "in nor as a module",
        f"{hint}; a driver of your own is given as MODULE=path",
    )


def _check_names(names: Sequence[str], kernel: KernelTree) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"MODULE: several modules have the name {name}", "name each once")
        if name in _OWN:
            raise UsageError(f"MODULE: {name} is the name of a module of this rig", "rename yours")
        if kernel_modules.is_builtin(kernel, name):
            raise UsageError(
                f"MODULE: the kernel {kernel.release} has {name} built in, so it refuses a module "
                "of this name",
                f"rename the module and its driver, or run the kernel's own with DRIVER={name}",
            )
