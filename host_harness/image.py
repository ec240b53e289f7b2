"""The guest image: kernel, base initramfs and the driver built for exactly that kernel.

Three cached steps, so that a change of the driver does not fetch Debian again:
the unpacked packages, the driver, the image (kernel, modules, Python and pytest, with bytecode).
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cache, debian
from .errors import EnvironmentFailure
from .payload import SOURCE, compile_bytecode, pack_cpio

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
# pytest and what it imports; the host's own files, so both sides read the same reports.
_PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
# pytest imports these lexers when it starts; those of 500 other languages are most of Pygments.
_LEXERS = ("__init__.py", "_mapping.py", "diff.py", "python.py")
# Parts of the standard library that no guest needs.
_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
# Extensions whose libraries are large: each megabyte costs 20 ms of boot under emulation.
_LEFT_OUT_EXTENSIONS = ("nis", "_dbm", "_sqlite3", "_curses", "_curses_panel")
# Loaded by the guest's init, dependencies first (virtio_ring before virtio is not the usual order).
KERNEL_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_console", "uio", "msr"),
)
_MODULE = "dma_rehearsal"
_BUILD_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Image:
    """Paths of what QEMU boots, and the versions that are in it."""

    kernel: Path
    initramfs: Path
    tree: Path
    versions: dict[str, str]
    kernel_release: str


def make(progress: Callable[[str], None]) -> Image:
    """Return the guest image, from the cache when its inputs are unchanged.

    EnvironmentFailure when packages cannot be had or the driver does not build.
    """
    tree_entry = cache.entry(
        "tree",
        {"suite": SUITE, "packages": _PACKAGES, "format": 1},
        lambda staging: _make_tree(staging, progress),
    )
    resolved = cache.manifest(tree_entry)
    tree = tree_entry / "root"
    release: str = resolved["kernel_release"]
    driver_entry = cache.entry(
        "driver",
        {
            "packages": cache.digest_of(resolved["versions"]),
            "sources": cache.digest_of_files(SOURCE / "guest" / "driver"),
            "format": 1,
        },
        lambda staging: _make_driver(tree, release, staging, progress),
    )
    pytest_versions = {name: importlib.metadata.version(name) for name in _PYTEST}
    image_entry = cache.entry(
        "image",
        {
            "packages": cache.digest_of(resolved["versions"]),
            "driver": driver_entry.name,
            "pytest": pytest_versions,
            "modules": KERNEL_MODULES,
            "programs": _PROGRAMS,
            "recipe": cache.digest_of(Path(__file__).read_text()),
        },
        lambda staging: _make_image(tree, release, driver_entry, staging, progress),
    )
    versions: dict[str, str] = {
        "kernel": release,
        "python": resolved["versions"]["python3.11-minimal"],
        "pytest": pytest_versions["pytest"],
    }
    return Image(
        image_entry / "vmlinux", image_entry / "initramfs.cpio.lz4", tree, versions, release
    )


def _make_tree(staging: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"unpacking Debian {SUITE}: kernel, headers, Python, compiler (about 470 MB, once)")
    root = staging / "root"
    root.mkdir()
    versions = debian.unpack(SUITE, _PACKAGES, root)
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise EnvironmentFailure(f"expected one kernel in {SUITE}, found {kernels}")
    # Maintainer scripts did not run, so the alternatives that they make are missing.
    for link, target in (("usr/bin/awk", "mawk"), ("usr/bin/cc", "gcc")):
        if not (root / link).exists():
            (root / link).symlink_to(target)
    return {"versions": versions, "kernel_release": kernels[0].name.removeprefix("vmlinuz-")}


def _make_driver(
    tree: Path, release: str, staging: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress(f"building the guest's driver for {release}")
    scratch = Path(tempfile.mkdtemp(prefix="driver-", dir=tree / "tmp"))
    try:
        work = scratch / "driver"
        shutil.copytree(SOURCE / "guest" / "driver", work)
        inside = f"/{work.relative_to(tree)}"
        how = "the image's own compiler"
        done = debian.run_inside(
            tree,
            f"make -C /usr/src/linux-headers-{release} M={inside} modules"
            f" && strip --strip-debug {inside}/{_MODULE}.ko",
            _BUILD_TIMEOUT_S,
        )
        if done is None:
            how = "the host's compiler"
            done = _build_with_host_compiler(tree, release, work)
        module = work / f"{_MODULE}.ko"
        if done.returncode != 0 or not module.is_file():
            said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise EnvironmentFailure(
                f"the guest's driver does not build with {how}:\n{said}",
                "mend guest/driver, or install gcc and make where the host's compiler was used",
            )
        if re.search(r"\bwarning:", done.stderr):
            progress(f"the compiler warned:\n{done.stderr.rstrip()}")
        shutil.copy(module, staging / module.name)
    finally:
        cache.remove_tree(scratch)
    return {"built_with": how}


def _build_with_host_compiler(
    tree: Path, release: str, work: Path
) -> subprocess.CompletedProcess[str]:
    """Build without entering the tree: its makefiles name /usr/src, so a copy names the tree."""
    headers = work.parent / "headers"
    original = tree / f"usr/src/linux-headers-{release}"
    shutil.copytree(original, headers, symlinks=True)
    for link in [path for path in headers.iterdir() if path.is_symlink()]:
        link.unlink()
        link.symlink_to((original / link.name).resolve())
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    for tool in ("make", "gcc"):
        if shutil.which(tool) is None:
            raise EnvironmentFailure(
                f"{tool} is not installed, and this machine lets no ordinary user enter a chroot",
                "apt-get install make gcc, or run as root",
            )
    return subprocess.run(
        ["make", "-C", str(headers), f"M={work}", "CC=gcc", "modules"],
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _make_image(
    tree: Path, release: str, driver: Path, staging: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress("packing the guest image")
    _extract_vmlinux(tree / f"boot/vmlinuz-{release}", staging / "vmlinux")
    root = staging / "root"
    root.mkdir()
    _copy_programs(tree, root)
    _copy_modules(tree, release, driver, root)
    site = root / "usr/lib/python3/dist-packages"
    site.mkdir(parents=True, exist_ok=True)
    for name in _PYTEST:
        for file in importlib.metadata.files(name) or []:
            if file.suffix == ".pyc" or file.parts[0] == "..":
                continue
            if file.parts[:2] == ("pygments", "lexers") and file.name not in _LEXERS:
                continue
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), target)
    compile_bytecode(tree, root / "usr/lib", "/usr/lib")
    raw = staging / "initramfs.cpio"
    pack_cpio(root, raw)
    subprocess.run(
        ["lz4", "-q", "-l", "-9", str(raw), str(staging / "initramfs.cpio.lz4")],
        check=True,
        timeout=120,
    )
    size = raw.stat().st_size
    raw.unlink()
    cache.remove_tree(root)
    return {"unpacked_bytes": size}


def _extract_vmlinux(bzimage: Path, target: Path) -> None:
    """Write the ELF kernel out of a bzImage: QEMU enters it by PVH, without the firmware's way.

    The set-up header gives the payload's place (Linux, Documentation/arch/x86/boot.rst,
    payload_offset and payload_length).
    """
    image = bzimage.read_bytes()
    if image[0x202:0x206] != b"HdrS":
        raise EnvironmentFailure(f"{bzimage} is no bzImage")
    setup_sectors = image[0x1F1] or 4
    offset = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    payload = image[offset : offset + length]
    tools = {
        b"\x02\x21\x4c\x18": ["lz4", "-dc", "-q"],
        b"\x28\xb5\x2f\xfd": ["zstd", "-dc", "-q"],
        b"\xfd7zX": ["xz", "-dc", "-q"],
        b"\x1f\x8b\x08": ["gzip", "-dc", "-q"],
    }
    for magic, command in tools.items():
        if payload.startswith(magic):
            # The payload ends with its unpacked size, which the tools take for trailing garbage.
            with target.open("wb") as out:
                subprocess.run(command, input=payload[:-4], stdout=out, check=True, timeout=120)
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
        target = root / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.resolve(), target)
        target.chmod(0o755)
    loader = root / "lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(exist_ok=True)
    shutil.copyfile((tree / "lib64/ld-linux-x86-64.so.2").resolve(), loader)
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
    for name in KERNEL_MODULES:
        found = list((tree / f"lib/modules/{release}/kernel").rglob(f"{name}.ko"))
        if len(found) != 1:
            raise EnvironmentFailure(f"kernel {release} has no module {name}")
        shutil.copyfile(found[0], folder / f"{name}.ko")
    shutil.copyfile(driver / f"{_MODULE}.ko", folder / f"{_MODULE}.ko")
    (folder / "order").write_text("\n".join(KERNEL_MODULES) + "\n")
