# SPDX-License-Identifier: Apache-2.0
"""The kernel modules of a run: under test, by MODULE= and DRIVER=, and others, by KERNEL_MODULES=.

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
LOADED_FOLDER = "kernel"
"""The folder of those that are loaded before the tests, below that of the modules under test."""

_OWN = ("dma_rehearsal", "dma_rehearsal_ops")
_NEAR_MAX = 5
_OWN_DRIVER = "; a driver of your own is given as MODULE=path"


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
    """The modules of a run, each after those that it needs, and what the compiler warned of.

    ``modules`` are under test; ``loaded`` are the kernel's own that are loaded before the tests.
    """

    modules: tuple[Module, ...] = ()
    warnings: tuple[str, ...] = ()
    loaded: tuple[Module, ...] = ()

    def files(self) -> dict[str, bytes]:
        """Return the files for the guest, by their names; none without modules."""
        found = _files(self.modules)
        loaded = _files(self.loaded).items()
        return found | {f"{LOADED_FOLDER}/{name}": data for name, data in loaded}

    def debug_files(self) -> dict[str, DebugFile]:
        """Return the modules with debug information, or at least symbols, by their names."""
        return {each.name: each.debug for each in self.modules if each.debug is not None}


def _files(modules: Sequence[Module]) -> dict[str, bytes]:
    """Return the list of these modules, and their files; nothing without modules."""
    if not modules:
        return {}
    listed = [
        {
            "name": each.name,
            "file": None if each.data is None else f"{each.name}.ko",
            "depends": list(each.depends),
        }
        for each in modules
    ]
    found = {f"{each.name}.ko": each.data for each in modules if each.data is not None}
    return {LISTING: (json.dumps({"modules": listed}, indent=1) + "\n").encode(), **found}


NO_MODULES = UserModules()


def check(modules: Iterable[str]) -> None:
    """Raise UsageError when MODULE names something of which no module can be made."""
    for text in modules:
        module_sources.find(text)


def make(
    modules: Sequence[str],
    driver: str | None,
    kernel: KernelTree,
    progress: Note,
    loaded: Sequence[str] = (),
) -> UserModules:
    """Return the modules under test, built for ``kernel`` where the cache lacks them.

    ``loaded`` are modules of the kernel that are loaded before the tests. UsageError for a module
    that does not build, that the kernel would refuse, or that does not exist; EnvironmentFailure
    when no compiler can be used here.
    """
    if not modules and driver is None and not loaded:
        return NO_MODULES
    known = kernel_modules.paths(kernel)
    made: list[Entry] = []
    for text in modules:
        made.append(module_entry.make(text, kernel, progress, made))
    own = [module for each in made for module in _modules(each)]
    _check_names([each.name for each in own], kernel)
    warnings = tuple(each.warnings for each in made if each.warnings)
    for name in loaded:
        _check_known("KERNEL_MODULES", name, kernel, known)
    return UserModules(
        tuple(_under_test({each.name: each for each in own}, driver, kernel, known)),
        warnings,
        tuple(_in_order(_with_needed(loaded, kernel, known))),
    )


def _modules(entry: Entry) -> list[Module]:
    found = []
    for name in entry.files:
        data = entry.for_guest(name)
        file = module_file.of(data, name)
        debug = DebugFile(entry.for_host(name), entry.root, entry.kbuild_folder)
        found.append(Module(file.name, data, _needs(file), debug))
    return found


def _under_test(
    own: Mapping[str, Module], driver: str | None, kernel: KernelTree, known: Mapping[str, Path]
) -> list[Module]:
    """Return the user's modules, the driver's and all that they need, dependencies first."""
    wanted = [each for module in own.values() for each in module.depends if each not in own]
    if driver:
        _check_known("DRIVER", driver, kernel, known)
        wanted.append(driver)
    found = _with_needed(wanted, kernel, known)
    if driver and kernel_modules.is_builtin(kernel, driver):
        name = kernel_modules.normal(driver)
        found[name] = Module(name, None)
    return _in_order({**found, **own})


def _with_needed(
    names: Sequence[str], kernel: KernelTree, known: Mapping[str, Path]
) -> dict[str, Module]:
    """Return the kernel's modules of these names and all that they need, without those built in."""
    found: dict[str, Module] = {}
    wanted = list(names)
    while wanted:  # closure does not follow softdep=
        before: list[str] = []
        for path in kernel_modules.closure(kernel, wanted, known)[0]:
            data = kernel_modules.contents(path)
            file = module_file.of(data, path.name)
            if file.name not in found:
                found[file.name] = Module(file.name, data, _needs(file), DebugFile(data))
                before += file.pre
        wanted = before
    return found


def _in_order(modules: Mapping[str, Module]) -> list[Module]:
    """Return the modules, dependencies first; each depends on those alone that are among them."""
    left = dict(modules)
    order: dict[str, Module] = {}

    def add(name: str) -> None:
        module = left.pop(name, None)
        if module is None:
            return  # it is listed already, or it is in the kernel itself
        for needed in module.depends:
            add(needed)
        there = tuple(each for each in module.depends if each in order)
        order[name] = replace(module, depends=there)

    for name in list(left):
        add(name)
    return list(order.values())


def _needs(file: ModuleFile) -> tuple[str, ...]:
    return tuple(kernel_modules.normal(name) for name in (*file.pre, *file.depends))


def _check_known(variable: str, name: str, kernel: KernelTree, known: Mapping[str, Path]) -> None:
    """Raise UsageError for a name that the kernel has neither as a module nor built in."""
    if kernel_modules.normal(name) in known or kernel_modules.is_builtin(kernel, name):
        return
    kind, own = ("module", "") if variable == "KERNEL_MODULES" else ("driver", _OWN_DRIVER)
    names = sorted({*known, *kernel.builtin})
    near = difflib.get_close_matches(kernel_modules.normal(name), names, _NEAR_MAX)
    hint = f"similar names: {', '.join(near)}" if near else "modinfo or /sys/module has its name"
    raise UsageError(
        f"{variable}={name}: the kernel {kernel.release} has no {kind} of this name, neither built "
        "in nor as a module",
        f"{hint}{own}",
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
