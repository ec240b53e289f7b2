# SPDX-License-Identifier: Apache-2.0
"""A built kernel module (.ko): its name, what it needs, and whether a kernel would load it.

The kernel compares a module's vermagic with its own, and with CONFIG_MODVERSIONS the checksum of
each symbol that the module uses (Linux, kernel/module/version.c). Both are compared here, on the
host, where an error can say what to do.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment import kernel_module

# struct modversion_info (Linux, include/linux/module.h): a checksum and a name.
_VERSION = struct.Struct("<Q56s")
_NAMED_MAX = 3  # symbols that a complaint names
_BYTES_MAX = 256 << 20


class ModuleFileError(ValueError):
    """A file is not a kernel module; the message says why."""


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """The facts of a module: ``name`` as in /sys/module, ``vermagic`` whole.

    ``depends`` are the modules whose symbols it uses, and ``pre`` those that it wants loaded before
    (softdep). ``versions`` are the checksums of the kernel's symbols that it uses.
    """

    name: str
    vermagic: str
    depends: tuple[str, ...]
    pre: tuple[str, ...]
    versions: Mapping[str, int]

    @property
    def release(self) -> str:
        """The release of the kernel that it was built for."""
        return self.vermagic.partition(" ")[0]


def read(path: Path) -> ModuleFile:
    """Read a module; ModuleFileError when it is not one, OSError when it cannot be read."""
    if path.stat().st_size > _BYTES_MAX:
        raise ModuleFileError(f"it has more than {_BYTES_MAX >> 20} MiB")
    return of(path.read_bytes(), path.name)


def of(data: bytes, file_name: str) -> ModuleFile:
    """Return the facts of a module's contents; ModuleFileError as `read`."""
    try:
        information = kernel_module.section(data, b".modinfo")
    except (ValueError, struct.error, IndexError) as error:
        raise ModuleFileError(str(error)) from error
    facts: dict[str, list[str]] = {}
    for item in information.split(b"\0"):
        key, separator, value = item.decode(errors="replace").partition("=")
        if separator:
            facts.setdefault(key, []).append(value)
    vermagic = facts.get("vermagic", [""])[0].strip()
    if not vermagic:
        raise ModuleFileError("it has no vermagic")
    stem = file_name.partition(".ko")[0].replace("-", "_")
    depends = facts.get("depends", [""])[0].split(",")
    return ModuleFile(
        name=facts.get("name", [stem])[0].replace("-", "_"),
        vermagic=vermagic,
        depends=tuple(each for each in depends if each),
        pre=tuple(name for words in facts.get("softdep", []) for name in _pre(words)),
        versions=_versions(data),
    )


def _pre(words: str) -> list[str]:
    """Return the modules of a softdep's words, ``pre: a b post: c``, that come before."""
    found, before = [], False
    for word in words.split():
        if word.endswith(":"):
            before = word == "pre:"
        elif before:
            found.append(word)
    return found


def _versions(data: bytes) -> dict[str, int]:
    try:
        table = kernel_module.section(data, b"__versions")
    except (ValueError, struct.error, IndexError):
        return {}  # without CONFIG_MODVERSIONS, or in the extended form of newer kernels
    whole = len(table) - len(table) % _VERSION.size
    return {
        name.rstrip(b"\0").decode(errors="replace"): crc & 0xFFFFFFFF
        for crc, name in _VERSION.iter_unpack(table[:whole])
    }


def symbol_versions(symvers: str) -> dict[str, int]:
    """Return the checksums in the text of a Module.symvers; lines of another form are left out."""
    return {
        match[2]: int(match[1], 16)
        for match in re.finditer(r"^0x([0-9a-fA-F]{1,8})\t(\S+)\t", symvers, re.MULTILINE)
    }


def why_refused(
    module: ModuleFile, kernel_vermagic: str, kernel_versions: Mapping[str, int]
) -> str:
    """Return why a kernel would refuse a module; empty where it would load it.

    ``kernel_versions`` has the symbols of the kernel, and of the other modules that are there.
    """
    release, _, words = kernel_vermagic.partition(" ")
    if module.release != release:
        return f"it was built for kernel {module.release}, and the guest's kernel is {release}"
    if module.vermagic.split()[1:] != words.split():
        return (
            f"its vermagic is {module.vermagic!r}, and that of the guest's kernel is "
            f"{kernel_vermagic!r}"
        )
    if not kernel_versions:
        return ""
    unknown = sorted(module.versions.keys() - kernel_versions.keys())
    if unknown:
        return f"the guest's kernel does not export {_named(unknown)}, which it uses"
    other = sorted(name for name, crc in module.versions.items() if kernel_versions[name] != crc)
    if other:
        return (
            f"the guest's kernel has another {_named(other)} than it was built with "
            "(CONFIG_MODVERSIONS: the checksums differ)"
        )
    return ""


def _named(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
