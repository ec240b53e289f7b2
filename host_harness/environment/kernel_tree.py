# SPDX-License-Identifier: Apache-2.0
"""A kernel to boot, and what modules are built against: a Debian suite's, or the user's own.

The guest's userland stays the same beside each kernel (environment.userland). The compiler is of
the kernel's suite: the programs that come with Debian's headers link its C library. A kernel that
the user has built (environment.built_kernel) is used in its own tree, with the host's compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    built_kernel,
    debian,
    kernel_config,
    manifest,
)
from dma_rehearsal.host_harness.environment.kernel_config import Use
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError

DEFAULT = "bookworm"
# The kernel, its headers, the compiler, and the tools that Kbuild's scripts call.
_PACKAGES = (
    *("linux-image-cloud-amd64", "linux-headers-cloud-amd64", "gcc", "make"),
    *("dash", "coreutils", "grep", "sed", "mawk", "findutils", "diffutils"),
)
_BACKPORTS = "-backports"
SUITES = (*("bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky", "sid"),)
"""The suites of Debian whose cloud kernel KERNEL can name."""


@dataclass(frozen=True, slots=True)
class KernelTree:
    """A kernel, its modules, and its headers with the tools that build modules for it.

    ``name`` is as KERNEL gives it; ``release`` is what ``uname -r`` says. ``root`` is the folder
    that a build enters; ``headers`` is the folder for ``make -C``. ``modules`` has the kernel's own
    modules (``*.ko``, also compressed); ``builtin`` are the names of those that are in the kernel
    itself, written with underscores. ``identity`` is the part of a cache key that differs when
    anything here does. ``is_built``: the user has built it; then all folders are its tree,
    ``make_words`` are for make, and ``vmlinux`` may have debug information.
    """

    name: str
    release: str
    root: Path
    headers: Path
    config: Path
    bzimage: Path
    modules: Path
    builtin: frozenset[str]
    identity: str
    is_built: bool = False
    make_words: tuple[str, ...] = ()
    vmlinux: Path | None = None


def _inputs(suite: str) -> dict[str, Any]:
    return {"suite": suite, "packages": _PACKAGES, "format": 2}


def check(kernel: str, uses: Collection[Use]) -> None:
    """Raise UsageError where ``kernel`` is nothing that a guest can boot, or lacks what is needed.

    Of a kernel that the user has built, all that its configuration lacks for ``uses`` is named.
    Makes nothing.
    """
    if kernel not in SUITES:
        kernel_config.require(_built(kernel).config, kernel, uses)


def _built(kernel: str) -> KernelTree:
    if "/" not in kernel and not Path(kernel).is_dir():
        raise UsageError(
            f"KERNEL={kernel} is not a kernel that a guest can have",
            f"use one of: {', '.join(SUITES)}; or the path of a kernel's tree that you have built",
        )
    found = built_kernel.find(kernel)
    return KernelTree(
        name=kernel,
        release=found.release,
        root=found.folder,
        headers=found.folder,
        config=found.config,
        bzimage=found.bzimage,
        modules=found.folder,
        builtin=builtin_names(found.folder / "modules.builtin"),
        identity=found.identity,
        is_built=True,
        make_words=found.make_words,
        vmlinux=found.vmlinux,
    )


def in_cache(kernel: str) -> KernelTree | None:
    """Return the kernel's tree that is there, by a cache entry's manifest alone; makes nothing.

    UsageError for a ``kernel`` that is neither a suite's nor a tree that is built.
    """
    if kernel not in SUITES:
        return _built(kernel)
    recorded = build_cache.recorded(build_cache.KERNEL, _inputs(kernel))
    return None if recorded is None else _tree(kernel, recorded)


def make(kernel: str, progress: Callable[[str], None]) -> KernelTree:
    """Return the kernel's tree, from the cache when it is there, with every file as unpacked.

    UsageError for a ``kernel`` that is neither a suite's nor a tree that is built;
    EnvironmentFailure when packages cannot be fetched.
    """
    if kernel not in SUITES:
        return _built(kernel)
    folder = build_cache.entry(
        build_cache.KERNEL,
        _inputs(kernel),
        lambda staging: _unpack(kernel, staging, progress),
        progress,
    )
    return _tree(kernel, manifest.read(folder))


def _tree(suite: str, recorded: dict[str, Any]) -> KernelTree:
    root = build_cache.folder_of(build_cache.KERNEL, _inputs(suite)) / "root"
    identity = build_cache.digest_of(recorded["versions"])
    return unpacked(suite, root, recorded["kernel_release"], identity)


def unpacked(suite: str, root: Path, release: str, identity: str) -> KernelTree:
    """Return the tree of a suite's kernel whose packages are unpacked in ``root``."""
    modules = modules_folder(root, release)
    headers = root / f"usr/src/linux-headers-{release}"
    return KernelTree(
        name=suite,
        release=release,
        root=root,
        headers=headers,
        config=headers / ".config",
        bzimage=image_of(root, release),
        modules=modules,
        builtin=builtin_names(modules / "modules.builtin"),
        identity=identity,
    )


def builtin_names(listing: Path) -> frozenset[str]:
    """Return the names in a ``modules.builtin``, with underscores; none without the file."""
    if not listing.is_file():
        return frozenset()
    names = (Path(line).name.removesuffix(".ko") for line in listing.read_text().splitlines())
    return frozenset(name.replace("-", "_") for name in names)


def modules_folder(root: Path, release: str) -> Path:
    """Return the folder of a release's modules; it is below usr/ since Debian 13."""
    return debian.within(root, _first_of(root, f"lib/modules/{release}"))


def image_of(root: Path, release: str) -> Path:
    """Return the release's packed kernel; newer packages keep it beside the modules."""
    return debian.within(
        root, _first_of(root, f"boot/vmlinuz-{release}", f"lib/modules/{release}/vmlinuz")
    )


def _first_of(root: Path, *names: str) -> str:
    candidates = [f"{prefix}{name}" for name in names for prefix in ("", "usr/")]
    found = (name for name in candidates if debian.within(root, name).exists())
    return next(found, candidates[0])


def _unpack(suite: str, staging: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"unpacking the kernel of Debian {suite}: headers, compiler (about 420 MB, once)")
    root = staging / "root"
    root.mkdir()
    base = suite.removesuffix(_BACKPORTS)
    newer = "linux-*" if suite.endswith(_BACKPORTS) else ""
    versions = debian.unpack(base, _PACKAGES, root, from_backports=newer)
    release = release_of(root, suite)
    # Maintainer scripts did not run, so the links that they make are missing, and those of the
    # merged /usr, which a suite's base-files has.
    for link, target in (
        *(("usr/bin/awk", "mawk"), ("usr/bin/cc", "gcc")),
        *((name, f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")),
    ):
        if not (root / link).exists() and (root / link).parent.exists():
            (root / link).symlink_to(target)
    for mount_point in ("dev", "proc", "mnt"):
        (root / mount_point).mkdir(exist_ok=True)
    return {"versions": versions, "kernel_release": release}


def release_of(root: Path, suite: str) -> str:
    """Return the release of the one kernel below ``root``; its headers must be of the same."""
    kernels = sorted(
        {
            *(path.name.removeprefix("vmlinuz-") for path in root.glob("boot/vmlinuz-*")),
            *(path.parent.name for path in root.glob("usr/lib/modules/*/vmlinuz")),
        }
    )
    headers = sorted(
        path.parent.name.removeprefix("linux-headers-")
        for path in root.glob("usr/src/linux-headers-*/.config")
    )
    if len(kernels) != 1 or headers != kernels:
        raise EnvironmentFailure(
            f"kernel and headers of {suite} do not match: kernel {', '.join(kernels) or 'none'}, "
            f"headers {', '.join(headers) or 'none'}",
            "the mirror is being updated: run again later",
        )
    return kernels[0]
