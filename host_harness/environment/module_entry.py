# SPDX-License-Identifier: Apache-2.0
"""One word of MODULE=, built for a kernel, as an entry of the cache.

A module is compiled with debug information, in a copy of its sources. An entry has debug/NAME.ko,
which is whole, for the host; guest/NAME.ko, without DWARF; and make's Module.symvers, for modules
that use its symbols. Its facts are the folder of the build and the compiler's warnings.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    disk_space,
    driver_build,
    host_tools,
    kernel_modules,
    manifest,
    module_file,
    module_sources,
)
from dma_rehearsal.host_harness.environment.driver_build import Way
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.environment.module_file import ModuleFileError
from dma_rehearsal.host_harness.environment.module_sources import (
    MAKEFILES,
    OPTION,
    Copy,
    ModuleSource,
    SourceKind,
)
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from dma_rehearsal.host_harness.process.janitor import remove_tree

# A driver's frame must not be left out of a stack because its last call became a jump.
_FLAGS = ("KCFLAGS=-g -fno-optimize-sibling-calls",)
_TIMEOUT_S = 300
_SAID_MAX = 60  # lines of the compiler
# What make says beside the compiler, and the compiler's note that it is not the kernel's own.
_NOISE = re.compile(
    r"make(?:\[\d+\])?: |  (?:AR|AS|BTF|CC|LD|MODPOST|OBJCOPY) |warning: the compiler differs|"
    r"  (?:The kernel was built by|You are using):|Skipping BTF generation"
)
_PLACE = re.compile(r"((?:In file included from |\s+from )?)([\w.+-][\w./+-]*)(?=:)")
_WARNING = re.compile(r"\bwarning:", re.IGNORECASE)
_ROOT = "<root>/"  # in stored words of the compiler: the folder of which the copy is one
_CONDITIONAL = re.compile(r"^[ \t]*obj-\$[({](CONFIG_\w+)[)}]", re.MULTILINE)
_UNCONDITIONAL = re.compile(r"^[ \t]*obj-m\b", re.MULTILINE)

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """The modules that one word of MODULE= names, and what the compiler warned of.

    ``folder`` is the entry in the cache. ``root`` is the folder of the copy that was built, empty
    for a module that was built already; ``kbuild_folder`` is the one of its Kbuild, below ``root``.
    """

    folder: Path
    root: str = ""
    kbuild_folder: str = "."
    warnings: str = ""

    @property
    def files(self) -> list[str]:
        """The names of the modules' files, as NAME.ko."""
        return sorted(path.name for path in (self.folder / "guest").glob("*.ko"))

    @property
    def symbols(self) -> Path:
        """The list of the symbols that the modules export; there may be none."""
        return self.folder / "Module.symvers"

    def for_guest(self, name: str) -> bytes:
        """Return a module without debug information."""
        return (self.folder / "guest" / name).read_bytes()

    def for_host(self, name: str) -> bytes:
        """Return a module as it was built."""
        return (self.folder / "debug" / name).read_bytes()


def make(text: str, kernel: KernelTree, progress: Note, before: Sequence[Entry] = ()) -> Entry:
    """Return the entry of a word of MODULE=, which may use the symbols of the entries ``before``.

    UsageError when it does not build, and when the kernel would refuse it; EnvironmentFailure when
    no compiler can be used here.
    """
    source = module_sources.find(text)
    symbols = [each.symbols for each in before if each.symbols.is_file()]
    inputs: dict[str, Any] = {
        "kernel": kernel.identity,
        "symbols": [hashlib.sha256(path.read_bytes()).hexdigest() for path in symbols],
        "format": 2,
    }
    if (way := driver_build.asked()) is not None:
        inputs["way"] = way
    if source.kind is SourceKind.BUILT:
        data = source.path.read_bytes()
        inputs["module"] = [source.path.name, hashlib.sha256(data).hexdigest()]
        folder = build_cache.entry(
            build_cache.MODULE,
            inputs,
            lambda staging: _take_built(source, data, kernel, symbols, staging),
            progress,
        )
        return Entry(folder)
    copy = module_sources.read(source)
    inputs |= {"sources": copy.digest, "flags": _FLAGS}
    folder = build_cache.entry(
        build_cache.MODULE,
        inputs,
        lambda staging: _compile(source, copy, kernel, symbols, staging, progress),
        progress,
    )
    facts = manifest.read(folder)
    warnings = facts["warnings"].replace(_ROOT, _shown(copy.root))
    return Entry(folder, facts["root"], copy.folder, warnings)


def _compile(
    source: ModuleSource,
    copy: Copy,
    kernel: KernelTree,
    symbols: Sequence[Path],
    staging: Path,
    progress: Note,
) -> dict[str, Any]:
    """Build the modules of ``copy`` into an entry of the cache; return the entry's facts."""
    way = driver_build.choose(kernel)
    progress(f"building {OPTION}={source.text} for {kernel.release} ({way})")
    work = staging / "work" / "copy"
    copy.write(work)
    words = [*_FLAGS, *_chosen(copy)]
    root = driver_build.root_of(way, work)
    if symbols:
        for number, path in enumerate(symbols):
            shutil.copyfile(path, work / f".symbols-{number}")
        names = (f"{root}/.symbols-{number}" for number in range(len(symbols)))
        words.append(f"KBUILD_EXTRA_SYMBOLS={' '.join(names)}")
    words.append(f"M={os.path.normpath(f'{root}/{copy.folder}')}")
    done = driver_build.make_modules(kernel, way, work, words, _TIMEOUT_S)
    said = _said(done.stdout + done.stderr, root, copy)
    made = sorted((work / copy.folder).rglob("*.ko"))
    if done.returncode != 0 or not made:
        disk_space.check_output(done.stderr + done.stdout)
        raise _not_built(source, copy, kernel, way, said, failed=done.returncode != 0)
    _keep(made, way, kernel, work, staging)
    exported = work / copy.folder / "Module.symvers"
    if exported.is_file():
        shutil.copyfile(exported, staging / exported.name)
    remove_tree(staging / "work")
    return {"way": way, "root": root, "warnings": said if _WARNING.search(said) else ""}


def _chosen(copy: Copy) -> list[str]:
    """Return the words for make that choose a module as a kernel's configuration would.

    A driver that comes from a kernel's tree has obj-$(CONFIG_NAME), and no obj-m.
    """
    texts = [
        data.decode(errors="replace")
        for name, data in copy.files.items()
        if Path(name).name in MAKEFILES
    ]
    if any(_UNCONDITIONAL.search(text) for text in texts):
        return []
    names = {name for text in texts for name in _CONDITIONAL.findall(text)}
    return [f"{name}=m" for name in sorted(names)]


def _said(text: str, root: str, copy: Copy) -> str:
    """Return the compiler's words, with `_ROOT` before the paths of the user's files."""
    lines = []
    for line in text.splitlines():
        if _NOISE.match(line):
            continue
        shown = line.replace(f"{root}/", _ROOT)
        # A kernel from 6.13 on has make run in the module's own folder.
        found = _PLACE.match(shown)
        if found and (name := os.path.normpath(f"{copy.folder}/{found[2]}")) in copy.files:
            shown = f"{found[1]}{_ROOT}{name}{shown[found.end() :]}"
        lines.append(shown)
    return "\n".join(lines).strip("\n")


def _shown(root: Path) -> str:
    """Return what is written before the path of a file below ``root``."""
    name = os.path.relpath(root)
    return "" if name == "." else f"{name}/"


def _not_built(
    source: ModuleSource, copy: Copy, kernel: KernelTree, way: Way, said: str, *, failed: bool
) -> UsageError:
    if not failed:
        return UsageError(
            f"{OPTION}={source.text}: make built no module",
            "its Kbuild file must have obj-m := NAME.o, for a NAME.c",
        )
    lines = said.replace(_ROOT, _shown(copy.root)).splitlines()
    left_out = len(lines) - _SAID_MAX
    words = "\n".join(lines[:_SAID_MAX]) + (f"\n... {left_out} lines more" if left_out > 0 else "")
    return UsageError(
        f"{OPTION}={source.text} does not build for the kernel {kernel.release}:\n{words}",
        f"mend the driver; {driver_build.SETTING} chooses another compiler (here: {way})",
    )


def _keep(made: Sequence[Path], way: Way, kernel: KernelTree, work: Path, staging: Path) -> None:
    """Move modules into the entry, for the host as they are, for the guest without DWARF."""
    for folder in ("debug", "guest"):
        (staging / folder).mkdir()
    for path in made:
        if (staging / "debug" / path.name).exists():
            raise UsageError(f"{OPTION}: several modules have the name {path.stem}", "rename one")
        shutil.copyfile(path, staging / "debug" / path.name)
    stripped = work / "stripped"
    stripped.mkdir()
    for path in made:
        shutil.copyfile(path, stripped / path.name)
    names = sorted(path.name for path in made)
    if way is Way.HOST:
        host_tools.run(["strip", "--strip-debug", *names], timeout_s=_TIMEOUT_S, cwd=stripped)
    else:
        script = f"cd /mnt && {shlex.join(['strip', '--strip-debug', *names])}"
        done = driver_build.run_inside(way, kernel.root, stripped, script, _TIMEOUT_S)
        if done.returncode != 0:
            disk_space.check_output(done.stderr)
            raise EnvironmentFailure(
                f"debug information cannot be stripped from {', '.join(names)}: {done.stderr}",
                f"choose another way with {driver_build.SETTING}={'|'.join(Way)}",
            )
    for name in names:
        shutil.copyfile(stripped / name, staging / "guest" / name)


def _take_built(
    source: ModuleSource,
    data: bytes,
    kernel: KernelTree,
    symbols: Sequence[Path],
    staging: Path,
) -> dict[str, Any]:
    """Take a module that the user has built, if the kernel will; return the entry's facts."""
    try:
        file = module_file.of(data, source.path.name)
    except ModuleFileError as error:
        raise UsageError(
            f"{OPTION}={source.text} is not a kernel module for x86-64: {error}",
            "name a built module, or the folder of its sources",
        ) from error
    versions: dict[str, int] = {}
    for path in (kernel.headers / "Module.symvers", *symbols):
        if path.is_file():
            versions |= module_file.symbol_versions(path.read_text())
    if why := module_file.why_refused(file, _vermagic(kernel), versions):
        raise UsageError(
            f"{OPTION}={source.text} does not fit the guest's kernel: {why}",
            "name the folder of its sources, which is built for this kernel; or give the kernel "
            "that it was built for as KERNEL=",
        )
    work = staging / "work"
    work.mkdir()
    path = work / source.path.name
    path.write_bytes(data)
    _keep([path], driver_build.choose(kernel), kernel, work, staging)
    remove_tree(work)
    return {}


def _vermagic(kernel: KernelTree) -> str:
    """Return the vermagic of a kernel, which all of its own modules have."""
    for path in kernel_modules.paths(kernel).values():
        return module_file.of(kernel_modules.contents(path), path.name).vermagic
    return kernel.release
