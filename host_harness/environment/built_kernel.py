# SPDX-License-Identifier: Apache-2.0
"""A kernel that the user has built: its tree is checked, and taken as it is.

The tree is the one that make wrote to: that of the sources, or that of ``O=``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache, kernel_config
from dma_rehearsal.host_harness.process.errors import UsageError

_RELEASE = "include/config/kernel.release"
_APPLIED = "include/config/auto.conf"  # the configuration that the build used
_BZIMAGE = "arch/x86/boot/bzImage"
_SYMBOLS = "Module.symvers"
_ORDER = "modules.order"
_MODPOST = "scripts/mod/modpost"


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """A tree that can be used. ``make_words`` are for make, such as LLVM=1.

    ``vmlinux`` has debug information, where it was built with it; there may be none.
    """

    folder: Path
    release: str
    config: Path
    bzimage: Path
    vmlinux: Path | None
    make_words: tuple[str, ...]
    identity: str


def find(text: str) -> BuiltKernel:
    """Return the kernel of the folder ``text``; UsageError says what is wrong with the tree."""
    folder = Path(text).expanduser().absolute()
    config = folder / ".config"
    if not (folder / "Makefile").is_file():
        raise UsageError(
            f"KERNEL={text} is not the tree of a kernel: it has no Makefile",
            "name the folder in which make built the kernel (with O=, that folder)",
        )
    if not config.is_file():
        raise _unusable(text, "is not configured (it has no .config)", "make defconfig && make")
    values = kernel_config.read(config)
    if values.get("X86_64") != "y":
        other = kernel_config.architecture(config) or "another architecture"
        if other == "x86":
            other = "32-bit x86"
        raise UsageError(
            f"KERNEL={text} is a kernel for {other}", "the guest is x86-64: build one with X86_64"
        )
    for name, how in (
        (_RELEASE, "make"),
        (_APPLIED, "make"),
        (_BZIMAGE, "make bzImage"),
        (_SYMBOLS, "make modules"),
        (_MODPOST, "make modules_prepare"),
    ):
        if not (folder / name).is_file():
            raise _unusable(text, f"is not built (it has no {name})", how)
    if config.stat().st_mtime > (folder / _APPLIED).stat().st_mtime:
        raise _unusable(text, "was configured again since it was built", "make")
    if values.get("MODVERSIONS") == "y" and not _has_versions(folder / _SYMBOLS):
        raise _unusable(
            text,
            f"has CONFIG_MODVERSIONS, and {_SYMBOLS} has no versions of the kernel's symbols",
            "make",
        )
    vmlinux = folder / "vmlinux"
    return BuiltKernel(
        folder,
        (folder / _RELEASE).read_text().strip(),
        config,
        folder / _BZIMAGE,
        vmlinux if vmlinux.is_file() else None,
        ("LLVM=1",) if values.get("CC_IS_CLANG") == "y" else (),
        _identity(folder),
    )


def modules(folder: Path) -> list[Path]:
    """Return the modules that were built with a kernel, as its modules.order lists them."""
    listing = folder / _ORDER
    if not listing.is_file():
        return []
    names = (line.strip() for line in listing.read_text().splitlines())
    # Until Linux 6.2 a line names the module, since then its object file.
    found = (folder / Path(name.removeprefix("kernel/")).with_suffix(".ko") for name in names)
    return [path for path in found if path.is_file()]


def _has_versions(symbols: Path) -> bool:
    with symbols.open() as lines:
        return any(int(line.split("\t", 1)[0], 16) for line in lines if line.startswith("0x"))


def _identity(folder: Path) -> str:
    contents = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (".config", _BZIMAGE, _SYMBOLS)
    }
    listed = []
    for path in modules(folder):
        status = path.stat()
        listed.append([str(path), status.st_size, status.st_mtime_ns])
    return build_cache.digest_of({"folder": str(folder), **contents, "modules": listed})


def _unusable(text: str, wrong: str, how: str) -> UsageError:
    return UsageError(f"KERNEL={text} {wrong}", f"in that folder: {how}")
