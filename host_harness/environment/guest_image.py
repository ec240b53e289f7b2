# SPDX-License-Identifier: Apache-2.0
"""The guest image: kernel, base initramfs and the driver built for exactly that kernel.

Three cached steps, so that a change of the driver does not fetch Debian again:
the unpacked packages, the driver, the image (kernel, modules, Python with pytest and Hypothesis,
with bytecode).
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    debian,
    disk_space,
    driver_build,
    guest_bytecode,
    guest_packages,
    host_tools,
    kernel_module,
    manifest,
)
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from dma_rehearsal.host_harness.process.janitor import remove_tree

SUITE = "bookworm"
# The guest's own programs, then what builds the driver (the tools that Kbuild's scripts call).
_PACKAGES = (
    *("linux-image-cloud-amd64", "linux-headers-cloud-amd64", "python3", "kmod"),
    *("bash", "pciutils", "util-linux", "mount"),
    *("dash", "coreutils", "grep", "sed", "mawk", "findutils", "diffutils", "gcc", "make"),
)
_PROGRAMS = (
    *("usr/bin/python3.11", "bin/kmod", "bin/dash", "bin/ls", "bin/cat", "bin/dd", "bin/stty"),
    *("bin/mkdir", "bin/rm", "bin/cp", "bin/ln", "bin/sleep", "bin/uname", "bin/grep"),
    *(
        "usr/bin/head",
        "usr/bin/tail",
        "usr/bin/od",
        "usr/bin/env",
        "usr/bin/id",
        "usr/bin/wc",
        "usr/bin/tty",
    ),
    *("bin/bash", "bin/dmesg", "bin/mount", "usr/bin/lspci", "usr/bin/setpci"),
)
# Parts of the standard library that no guest needs.
_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
# Extensions whose libraries are large: each megabyte costs 20 ms of boot under emulation.
_LEFT_OUT_EXTENSIONS = ("nis", "_dbm", "_sqlite3", "_curses", "_curses_panel")
# Loaded by the guest's init, dependencies first (virtio_ring before virtio is not the usual order).
KERNEL_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_console", "uio", "msr"),
)
# Loaded by the guest's swap.py when a test wants them.
ON_DEMAND_MODULES = ("zsmalloc", "lzo-rle", "zram")
# Loaded after those where the guest has an IOMMU.
IOMMU_MODULES = (
    *("irqbypass", "vfio", "vfio_virqfd", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci"),
)
_MODULE = "dma_rehearsal"
_BUILD_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Image:
    """Paths of what QEMU boots, and the versions that are in it.

    ``kernel`` is an ELF file, entered by PVH; ``bzimage`` the same kernel as the distribution
    packs it, entered as by a boot loader, and able to choose five levels of page tables.
    """

    kernel: Path
    bzimage: Path
    initramfs: Path
    tree: Path
    versions: dict[str, str]
    kernel_release: str


def _tree_inputs() -> dict[str, Any]:
    return {"suite": SUITE, "packages": _PACKAGES, "format": 2}


def _driver_inputs(resolved: dict[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "packages": build_cache.digest_of(resolved["versions"]),
        "sources": build_cache.digest_of_files(SOURCE / "guest" / "driver"),
        "format": 2,
    }
    if (way := driver_build.asked()) is not None:  # the way that was asked for is really used
        inputs["way"] = way
    return inputs


def _image_inputs(resolved: dict[str, Any], package_versions: dict[str, str]) -> dict[str, Any]:
    return {
        "packages": build_cache.digest_of(resolved["versions"]),
        "driver": build_cache.digest_of(_driver_inputs(resolved)),
        "python packages": package_versions,
        "modules": (*KERNEL_MODULES, *ON_DEMAND_MODULES, *IOMMU_MODULES),
        "programs": _PROGRAMS,
        "recipe": build_cache.digest_of(
            [Path(module).read_text() for module in (__file__, guest_packages.__file__)]
        ),
    }


@dataclass(frozen=True, slots=True)
class Made:
    """The parts of the image that the cache holds; an empty text for a part that it lacks."""

    kernel: str = ""
    python: str = ""
    pytest: str = ""
    to_make: tuple[str, ...] = ()


def made() -> Made:
    """Return what the cache holds for this checkout, by the manifests alone; makes nothing."""
    return _made(_recorded_tree())


def _made(resolved: dict[str, Any] | None) -> Made:
    if resolved is None:
        return Made(to_make=("tree", "driver", "image"))
    try:
        versions = guest_packages.versions()
    except importlib.metadata.PackageNotFoundError:  # run without the virtual environment
        versions = {}
    to_make = []
    if build_cache.recorded(build_cache.DRIVER, _driver_inputs(resolved)) is None:
        to_make.append("driver")
    if (
        versions
        and build_cache.recorded(build_cache.IMAGE, _image_inputs(resolved, versions)) is None
    ):
        to_make.append("image")
    return Made(
        resolved["kernel_release"],
        resolved["versions"]["python3.11-minimal"],
        versions.get("pytest", "of the venv that is to be made"),
        tuple(to_make),
    )


def in_cache() -> Image | None:
    """Return the image that `make` would return, None where something is to be made first."""
    resolved = _recorded_tree()
    if resolved is None or _made(resolved).to_make:
        return None
    try:
        versions = guest_packages.versions()
    except importlib.metadata.PackageNotFoundError:
        return None
    entry = build_cache.folder_of(build_cache.IMAGE, _image_inputs(resolved, versions))
    tree = build_cache.folder_of(build_cache.TREE, _tree_inputs()) / "root"
    return _image(entry, tree, resolved, versions)


def _recorded_tree() -> dict[str, Any] | None:
    return build_cache.recorded(build_cache.TREE, _tree_inputs())


def kernel_in_cache() -> Path | None:
    """Return a kernel that a probe VM can boot, None when the cache has none."""
    found = (path / "vmlinux" for path in build_cache.entries(build_cache.IMAGE))
    return next((path for path in found if path.is_file()), None)


def make(progress: Callable[[str], None]) -> Image:
    """Return the guest image, from the cache when its inputs are unchanged.

    EnvironmentFailure when packages cannot be fetched, the driver does not build, or the kernel and
    the driver do not match.
    """

    def make_tree() -> Path:
        return build_cache.entry(
            build_cache.TREE,
            _tree_inputs(),
            lambda staging: _make_tree(staging, progress),
            progress,
        )

    # The tree's 17,000 files are looked at only when something is built from them; for a payload,
    # those of its Python (guest_bytecode).
    resolved = _recorded_tree()
    tree = build_cache.folder_of(build_cache.TREE, _tree_inputs()) / "root"
    if resolved is None or _made(resolved).to_make:
        resolved = manifest.read(make_tree())
    release: str = resolved["kernel_release"]

    def build_from_tree(
        build: Callable[[Path], dict[str, Any]],
    ) -> Callable[[Path], dict[str, Any]]:
        def checked(staging: Path) -> dict[str, Any]:
            if manifest.read(make_tree())["versions"] != resolved["versions"]:
                raise EnvironmentFailure(
                    f"the packages of {tree} had to be fetched again and are newer now",
                    "run again, to make everything from them",
                )
            return build(staging)

        return checked

    driver_entry = build_cache.entry(
        build_cache.DRIVER,
        _driver_inputs(resolved),
        build_from_tree(lambda staging: _make_driver(tree, release, staging, progress)),
        progress,
    )
    package_versions = guest_packages.versions()
    image_entry = build_cache.entry(
        build_cache.IMAGE,
        _image_inputs(resolved, package_versions),
        build_from_tree(
            lambda staging: _make_image(tree, release, driver_entry, staging, progress)
        ),
        progress,
    )
    kernel_module.check(image_entry / "vmlinux", driver_entry / f"{_MODULE}.ko")
    return _image(image_entry, tree, resolved, package_versions)


def _image(
    entry: Path, tree: Path, resolved: dict[str, Any], package_versions: dict[str, str]
) -> Image:
    release: str = resolved["kernel_release"]
    versions: dict[str, str] = {
        "kernel": release,
        "python": resolved["versions"]["python3.11-minimal"],
        "pytest": package_versions["pytest"],
    }
    return Image(
        entry / "vmlinux",
        entry / "bzImage",
        entry / "initramfs.cpio.lz4",
        tree,
        versions,
        release,
    )


def _make_tree(staging: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"unpacking Debian {SUITE}: kernel, headers, Python, compiler (about 470 MB, once)")
    root = staging / "root"
    root.mkdir()
    versions = debian.unpack(SUITE, _PACKAGES, root)
    release = _release_of_tree(root)
    # Maintainer scripts did not run, so the alternatives that they make are missing.
    for link, target in (("usr/bin/awk", "mawk"), ("usr/bin/cc", "gcc")):
        if not (root / link).exists():
            (root / link).symlink_to(target)
    for mount_point in ("dev", "mnt"):
        (root / mount_point).mkdir(exist_ok=True)
    return {"versions": versions, "kernel_release": release}


def _release_of_tree(root: Path) -> str:
    """Return the release of the tree's one kernel; the headers must be of the same one."""
    kernels = sorted(path.name.removeprefix("vmlinuz-") for path in root.glob("boot/vmlinuz-*"))
    headers = sorted(
        path.parent.name.removeprefix("linux-headers-")
        for path in root.glob("usr/src/linux-headers-*/.config")
    )
    if len(kernels) != 1 or headers != kernels:
        raise EnvironmentFailure(
            f"kernel and headers of {SUITE} do not match: kernel {', '.join(kernels) or 'none'}, "
            f"headers {', '.join(headers) or 'none'}",
            "the mirror is being updated: run again later",
        )
    return kernels[0]


def _make_driver(
    tree: Path, release: str, staging: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    way = driver_build.choose()
    how = "the host's compiler" if way is driver_build.Way.HOST else "the image's own compiler"
    progress(f"building the guest's driver for {release} with {how} ({way})")
    work = staging / "work" / "driver"
    shutil.copytree(SOURCE / "guest" / "driver", work)
    if way is driver_build.Way.HOST:
        done = driver_build.run_on_host(tree, release, work, _BUILD_TIMEOUT_S)
    else:
        script = f"make -C /usr/src/linux-headers-{release} M=/mnt modules"
        done = driver_build.run_inside(way, tree, work, script, _BUILD_TIMEOUT_S)
    module = work / f"{_MODULE}.ko"
    if done.returncode != 0 or not module.is_file():
        disk_space.check_output(done.stderr + done.stdout)
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise EnvironmentFailure(
            f"the guest's driver does not build with {how} ({way}):\n{said}",
            f"fix guest/driver, or choose another way with {driver_build.SETTING}="
            f"{'|'.join(driver_build.Way)}",
        )
    if re.search(r"\bwarning:", done.stderr):
        progress(f"the compiler warned:\n{done.stderr.rstrip()}")
    shutil.copy(module, staging / module.name)
    remove_tree(staging / "work")
    built_for = kernel_module.vermagic(staging / module.name)
    if built_for != release:
        raise EnvironmentFailure(
            f"kernel and module do not match: the kernel is {release}, the module was built for "
            f"{built_for}",
            f"{advice.command('clean-cache')}, then run again",
        )
    return {"built_with": how, "way": way}


def _make_image(
    tree: Path, release: str, driver: Path, staging: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress("packing the guest image")
    bzimage = shutil.copyfile(tree / f"boot/vmlinuz-{release}", staging / "bzImage")
    _extract_vmlinux(bzimage, staging / "vmlinux")
    kernel_module.check(staging / "vmlinux", driver / f"{_MODULE}.ko")
    root = staging / "root"
    root.mkdir()
    _copy_programs(tree, root)
    _copy_modules(tree, release, driver, root)
    guest_packages.copy(root / "usr/lib/python3/dist-packages")
    guest_bytecode.compile_folder(tree, root / "usr/lib", "/usr/lib")
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


def _extract_vmlinux(bzimage: Path, target: Path) -> None:
    """Write the ELF kernel out of a bzImage: QEMU enters it by PVH, without the firmware's way.

    The set-up header gives the payload's place (Linux, Documentation/arch/x86/boot.rst,
    payload_offset and payload_length).
    """
    image = bzimage.read_bytes()
    if image[0x202:0x206] != b"HdrS":
        raise EnvironmentFailure(f"{bzimage} is not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    packed = image[offset : offset + length]
    unpackers = {
        b"\x02\x21\x4c\x18": ["lz4", "-dc", "-q"],
        b"\x28\xb5\x2f\xfd": ["zstd", "-dc", "-q"],
        b"\xfd7zX": ["xz", "-dc", "-q"],
        b"\x1f\x8b\x08": ["gzip", "-dc", "-q"],
    }
    for magic, command in unpackers.items():
        if packed.startswith(magic):
            # The payload ends with its unpacked size, which the tools take for trailing garbage.
            with target.open("wb") as out:
                host_tools.run(command, input=packed[:-4], stdout=out, timeout_s=120)
            if target.open("rb").read(4) == b"\x7fELF":
                return
    raise EnvironmentFailure(f"the compression of {bzimage.name} is not known")


def _copy_programs(tree: Path, root: Path) -> None:
    stdlib = tree / "usr/lib/python3.11"
    shutil.copytree(
        stdlib,
        root / "usr/lib/python3.11",
        symlinks=True,
        ignore=lambda folder, names: [
            name
            for name in names
            if name == "__pycache__"
            or name.startswith("config-3")
            or name.partition(".")[0] in _LEFT_OUT_EXTENSIONS
            or (Path(folder) == stdlib and name in _LEFT_OUT)
        ],
    )
    programs = [tree / name for name in _PROGRAMS]
    extensions = [
        path
        for path in sorted((stdlib / "lib-dynload").glob("*.so"))
        if path.name.partition(".")[0] not in _LEFT_OUT_EXTENSIONS
    ]
    for path in [*programs, *debian.needed_libraries(tree, [*programs, *extensions])]:
        inside = path.relative_to(tree)
        target = root / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(debian.within(tree, inside), target)
        target.chmod(0o755)
    loader = root / debian.LOADER
    loader.parent.mkdir(exist_ok=True)
    shutil.copyfile(debian.within(tree, debian.LOADER), loader)
    loader.chmod(0o755)
    for link, name in (
        ("usr/bin/python3", "python3.11"),
        ("bin/sh", "dash"),
        *((f"sbin/{tool}", "../bin/kmod") for tool in ("insmod", "rmmod", "lsmod", "modinfo")),
    ):
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(name)
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "etc"):
        (root / folder).mkdir()


def _copy_modules(tree: Path, release: str, driver: Path, root: Path) -> None:
    folder = root / "lib/modules/rehearsal"
    folder.mkdir(parents=True)
    for name in (*KERNEL_MODULES, *ON_DEMAND_MODULES, *IOMMU_MODULES):
        found = list((tree / f"lib/modules/{release}/kernel").rglob(f"{name}.ko"))
        if len(found) != 1:
            raise EnvironmentFailure(f"kernel {release} has no module {name}")
        shutil.copyfile(found[0], folder / f"{name}.ko")
    shutil.copyfile(driver / f"{_MODULE}.ko", folder / f"{_MODULE}.ko")
    for order, names in ("order", KERNEL_MODULES), ("order-iommu", IOMMU_MODULES):
        (folder / order).write_text("\n".join(names) + "\n")
