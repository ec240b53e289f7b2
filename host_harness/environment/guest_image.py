# SPDX-License-Identifier: Apache-2.0
"""The guest image: a kernel, the base initramfs, and the driver built for exactly that kernel.

Cached steps, so that a change of the driver does not fetch Debian again: the userland's packages
(environment.userland), the kernel's (environment.kernel_tree), the driver
(environment.guest_driver), and the image (kernel, modules, Python with pytest and Hypothesis, with
bytecode).
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    guest_bytecode,
    guest_driver,
    guest_packages,
    host_tools,
    kernel_image,
    kernel_module,
    kernel_modules,
    kernel_tree,
    user_packages,
)
from dma_rehearsal.host_harness.environment import userland as _userland
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.environment.user_packages import UserPackages
from dma_rehearsal.host_harness.environment.userland import Userland
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from dma_rehearsal.host_harness.process.janitor import remove_tree

# The kernel's own modules, in files of the image that list them in the order of loading. The guest
# loads the first at its start, the second where it has an IOMMU, the third when a test pages out.
# lzo-rle is what zram packs with until Linux 6.11.
_ORDER = "order"
_MODULES = {
    _ORDER: ("virtio_pci", "virtio_console", "uio", "msr"),
    "order-iommu": ("vfio_iommu_type1", "vfio-pci"),
    "order-swap": ("lzo-rle", "zram"),
}


@dataclass(frozen=True, slots=True)
class Image:
    """Paths of what QEMU boots, and the versions that are in it.

    ``kernel`` is an ELF file, entered by PVH; ``bzimage`` the same kernel as the distribution
    packs it, entered as by a boot loader, and able to choose five levels of page tables. ``tree``
    is the userland's; ``kernel_tree`` has what modules are built against; ``packages`` are those
    that the user has added.
    """

    kernel: Path
    bzimage: Path
    initramfs: Path
    tree: Path
    versions: dict[str, str]
    kernel_release: str
    kernel_tree: KernelTree
    packages: UserPackages | None = None

    @property
    def archives(self) -> tuple[Path, ...]:
        """The initramfs in its parts; a file in several of them is that of the last."""
        return (*([self.packages.archive] if self.packages else []), self.initramfs)


def _image_inputs(
    userland: Userland, kernel: KernelTree, package_versions: dict[str, str]
) -> dict[str, Any]:
    return {
        "userland": userland.identity,
        "kernel": kernel.identity,
        "driver": build_cache.digest_of(
            [guest_driver.inputs(kernel, source) for source in guest_driver.folders(kernel)]
        ),
        "python packages": package_versions,
        "recipe": build_cache.digest_of(
            [
                Path(module).read_text()
                for module in (
                    __file__,
                    _userland.__file__,
                    guest_packages.__file__,
                    kernel_image.__file__,
                    kernel_modules.__file__,
                )
            ]
        ),
    }


@dataclass(frozen=True, slots=True)
class Made:
    """The parts of the image that the cache holds; an empty text for a part that it lacks."""

    kernel: str = ""
    python: str = ""
    pytest: str = ""
    to_make: tuple[str, ...] = ()


def made(kernel: str, packages: Sequence[str] = ()) -> Made:
    """Return what the cache holds for this checkout, by the manifests alone; makes nothing.

    ``packages`` are those that the user adds. UsageError for a ``kernel`` that names nothing.
    """
    found = _made(_userland.in_cache(), kernel_tree.in_cache(kernel))
    if packages and user_packages.in_cache(packages) is None:
        return replace(found, to_make=(*found.to_make, "packages"))
    return found


def _made(userland: Userland | None, kernel: KernelTree | None) -> Made:
    lacking = [name for name, part in (("userland", userland), ("kernel", kernel)) if part is None]
    if userland is None or kernel is None:
        return Made(
            kernel.release if kernel else "",
            userland.python if userland else "",
            to_make=(*lacking, "driver", "image"),
        )
    try:
        versions = guest_packages.versions()
    except importlib.metadata.PackageNotFoundError:  # run without the virtual environment
        versions = {}
    to_make = [] if guest_driver.is_made(kernel) else ["driver"]
    inputs = _image_inputs(userland, kernel, versions)
    if versions and build_cache.recorded(build_cache.IMAGE, inputs) is None:
        to_make.append("image")
    return Made(
        kernel.release,
        userland.python,
        versions.get("pytest", "of the venv that is to be made"),
        tuple(to_make),
    )


def in_cache(kernel: str, packages: Sequence[str] = ()) -> Image | None:
    """Return the image that `make` would return, None where something is to be made first."""
    userland, tree = _userland.in_cache(), kernel_tree.in_cache(kernel)
    if userland is None or tree is None or _made(userland, tree).to_make:
        return None
    try:
        versions = guest_packages.versions()
    except importlib.metadata.PackageNotFoundError:
        return None
    added = user_packages.in_cache(packages) if packages else None
    if packages and added is None:
        return None
    inputs = _image_inputs(userland, tree, versions)
    entry = build_cache.folder_of(build_cache.IMAGE, inputs)
    return replace(_image(entry, userland, tree, versions), packages=added)


def kernel_in_cache() -> Path | None:
    """Return a kernel that a probe VM can boot, None when the cache has none."""
    found = (path / "vmlinux" for path in build_cache.entries(build_cache.IMAGE))
    return next((path for path in found if path.is_file()), None)


def make(kernel: str, progress: Callable[[str], None], packages: Sequence[str] = ()) -> Image:
    """Return the guest image with ``kernel``, from the cache when its inputs are unchanged.

    ``packages`` are Debian packages to add. UsageError for a ``kernel`` or a package that does not
    exist; EnvironmentFailure when packages cannot be fetched, the driver does not build, or the
    kernel and the driver do not match.
    """
    added = user_packages.make(packages, progress) if packages else None
    # The trees' 20,000 files are looked at only when something is built from them; for a payload,
    # those of its Python (guest_bytecode).
    found, tree = _userland.in_cache(), kernel_tree.in_cache(kernel)
    if found is None or tree is None or _made(found, tree).to_make:
        found, tree = _userland.make(progress), kernel_tree.make(kernel, progress)
    resolved, built_for = found, tree

    def check() -> None:
        now = _userland.make(progress), kernel_tree.make(kernel, progress)
        if now != (resolved, built_for):
            raise EnvironmentFailure(
                f"the packages of {resolved.root} or {built_for.root} had to be fetched again and "
                "are newer now",
                "run again, to make everything from them",
            )

    def build(staging: Path) -> dict[str, Any]:
        check()
        return _make_image(resolved, built_for, modules, staging, progress)

    modules = guest_driver.make(tree, progress, check)
    versions = guest_packages.versions()
    inputs = _image_inputs(found, tree, versions)
    entry = build_cache.entry(build_cache.IMAGE, inputs, build, progress)
    for module in modules:
        kernel_module.check(entry / "vmlinux", module)
    return replace(_image(entry, found, tree, versions), packages=added)


def _image(
    entry: Path, userland: Userland, kernel: KernelTree, package_versions: dict[str, str]
) -> Image:
    versions = {
        "kernel": kernel.release,
        "kernel of": kernel.name,
        "python": userland.python,
        "pytest": package_versions["pytest"],
    }
    return Image(
        entry / "vmlinux",
        entry / "bzImage",
        entry / "initramfs.cpio.lz4",
        userland.root,
        versions,
        kernel.release,
        kernel,
    )


def _make_image(
    userland: Userland,
    kernel: KernelTree,
    drivers: Sequence[Path],
    staging: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    progress("packing the guest image")
    bzimage = shutil.copyfile(kernel.bzimage, staging / "bzImage")
    kernel_image.extract(bzimage, staging / "vmlinux")
    for module in drivers:
        kernel_module.check(staging / "vmlinux", module)
    root = staging / "root"
    root.mkdir()
    _userland.copy_programs(userland.root, root)
    _copy_modules(kernel, drivers, root)
    guest_packages.copy(root / "usr/lib/python3/dist-packages")
    guest_bytecode.compile_folder(userland.root, root / "usr/lib", "/usr/lib")
    raw = staging / "initramfs.cpio"
    _pack_cpio(root, raw)
    host_tools.run(
        ["lz4", "-q", "-l", "-9", str(raw), str(staging / "initramfs.cpio.lz4")], timeout_s=120
    )
    size = raw.stat().st_size
    raw.unlink()
    remove_tree(root)
    return {"unpacked_bytes": size}


def _pack_cpio(root: Path, target: Path) -> None:
    """Write the folder ``root`` as a newc archive, all owned by root, in a stable order."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with target.open("wb") as out:
        host_tools.run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "-R", "0:0"],
            input="\0".join(names).encode() + b"\0",
            stdout=out,
            cwd=root,
            timeout_s=120,
        )


def _copy_modules(kernel: KernelTree, drivers: Sequence[Path], root: Path) -> None:
    folder = root / "lib/modules/rehearsal"
    folder.mkdir(parents=True)
    known = kernel_modules.paths(kernel)
    at_start: list[Path] = []
    for listing, names in _MODULES.items():
        order, missing = kernel_modules.closure(kernel, names, known)
        if missing and listing == _ORDER:
            raise EnvironmentFailure(
                f"the kernel {kernel.release} ({kernel.name}) has neither modules nor built-in "
                f"code for: {', '.join(missing)}",
                "use another kernel, or configure this one with them (docs/kernels.md)",
            )
        order = [path for path in order if path not in at_start]
        if listing == _ORDER:
            at_start = order
        loaded = [kernel_modules.copy(path, folder) for path in order]
        (folder / listing).write_text("".join(f"{name}\n" for name in loaded))
    for module in drivers:
        shutil.copyfile(module, folder / module.name)
    if kernel.is_built:  # perhaps with debug information, many times as large
        built = sorted(path.name for path in folder.glob("*.ko"))
        host_tools.run(["strip", "--strip-debug", *built], timeout_s=120, cwd=folder)
