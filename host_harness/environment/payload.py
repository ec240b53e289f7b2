# SPDX-License-Identifier: Apache-2.0
"""The payload of a run: ``guest/`` and the tests as an initramfs of their own, with bytecode.

The kernel unpacks several archives that follow each other. Ours is first and uncompressed, the
packages that the user names follow (user_packages), and the base image is last: a legacy lz4
archive has no end mark, so nothing may follow it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cpio_archive,
    guest_bytecode,
    manifest,
)
from dma_rehearsal.host_harness.environment.cpio_archive import Member
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from dma_rehearsal.host_harness.process.janitor import remove_tree

SOURCE = Path(__file__).resolve().parents[2]
_ROOT = "opt/dma-rehearsal"
# The guest has one import name, too: guest/, and of device/ the layout that both sides share.
PACKAGE_FOLDER = f"{_ROOT}/dma_rehearsal"
GUEST_FOLDER = f"{PACKAGE_FOLDER}/guest"
PROJECT_FOLDER = f"{_ROOT}/project"
_MODULES = "modules"  # below _ROOT: the kernel modules under test (user_modules)
BOOT_FILES = (
    *("guest/__init__.py", "guest/agent/__init__.py", "guest/linux/__init__.py"),
    *("guest/agent/init.py", "guest/agent/channel.py", "guest/agent/parked.py"),
    *("guest/agent/payload_files.py", "guest/agent/pci_functions.py"),
    *("guest/agent/saved_state.py", "guest/agent/shells.py", "guest/linux/kernel_modules.py"),
    *("device/layout/__init__.py", "device/layout/cache.py", "device/layout/dma.py"),
    *("device/layout/exerciser.py", "device/layout/extension.py", "device/layout/platform.py"),
    *("device/layout/protection.py", "device/layout/result_frames.py"),
    *("device/layout/ring.py", "device/layout/witness.py"),
)
"""The files, below `SOURCE`, that a parked guest has in its memory: no message replaces them."""
KERNEL_CODE = ("driver", "dma_ops")
"""The folders of ``guest/`` that have sources of kernel modules."""
_IGNORED = ("__pycache__", ".*", "*.pyc")
_ARCHIVE, _LISTING, _BYTECODE = "payload.cpio", "files.json", "bytecode.json"
_NOTHING: Mapping[str, bytes] = MappingProxyType({})
_EARLIER = 4  # payloads that are looked at for bytecode


@dataclass(frozen=True, slots=True)
class GuestTests:
    """The tests that the guest runs. ``selected`` are pytest's arguments: paths below ``root``.

    Node ids start at ``root``, on both sides. ``root`` is this project's ``guest/``, or the root of
    another project. Only the selected folders of that are copied; for a file, its folder and the
    folders above it that have a conftest.py or are packages. ``only`` narrows what is collected,
    and not what is copied.
    """

    root: Path = SOURCE / "guest"
    selected: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The paths and node ids that the guest's pytest collects; none: all tests."""
        return self.only or self.selected

    @property
    def is_own(self) -> bool:
        """Whether they are this project's."""
        return self.root == SOURCE / "guest"

    @property
    def root_in_guest(self) -> str:
        """The folder in the guest that corresponds to ``root``."""
        return f"/{GUEST_FOLDER if self.is_own else PROJECT_FOLDER}"

    def files(self) -> list[Path]:
        """Return the paths to copy, relative to ``root``; UsageError for a missing path."""
        for word in self.selected:
            if word.startswith("-"):
                raise UsageError(f"guest tests: {word!r} is not a path", "write it as ./NAME")
        if self.is_own:
            return []
        found = []
        for word in self.selected:
            path = (self.root / word.partition("::")[0]).resolve()
            if not path.exists():
                raise UsageError(
                    f"guest tests: {path} does not exist", "name a file or folder of guest tests"
                )
            if not path.is_relative_to(self.root):
                raise UsageError(
                    f"guest tests: {path} is not below the root of the tests, {self.root}",
                    "start in the project that contains it (or give pytest a --rootdir)",
                )
            found.append(self._copied_for(path).relative_to(self.root))
        return found

    def _copied_for(self, path: Path) -> Path:
        folder = path if path.is_dir() else path.parent
        if folder == self.root:
            return path
        while folder.parent != self.root and any(
            (folder.parent / name).exists() for name in ("conftest.py", "__init__.py")
        ):
            folder = folder.parent
        return folder


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload in the cache. ``digest`` identifies it; ``folder`` is its entry."""

    folder: Path
    digest: str

    def listing(self) -> dict[str, str]:
        """Return a word for each path below /opt/dma-rehearsal, of its mode and contents.

        Paths of folders end in "/". Two payloads with the same words have the same files.
        """
        listed: dict[str, str] = json.loads((self.folder / _LISTING).read_text())
        return listed

    def boot_files_digest(self) -> str:
        """Return the digest of this payload's `BOOT_FILES`, as `boot_files_digest` does."""
        listing = self.listing()
        package = Path(PACKAGE_FOLDER).relative_to(_ROOT)
        words = {name: listing.get(f"{package}/{name}", "") for name in BOOT_FILES}
        return build_cache.digest_of({name: word.split()[-1:] for name, word in words.items()})

    def initramfs(self, *archives: Path) -> IO[bytes]:
        """Return the initramfs of a boot: this payload, then the ``archives`` of the image.

        The file has no name, so nothing is left of it; QEMU opens it through /proc/self/fd.
        """
        out = os.fdopen(os.memfd_create("initramfs"), "wb")
        for part in (self.folder / _ARCHIVE, *archives):
            with part.open("rb") as archive:
                left = os.fstat(archive.fileno()).st_size
                while left and (sent := os.sendfile(out.fileno(), archive.fileno(), None, left)):
                    left -= sent
        return out


@dataclass(frozen=True, slots=True)
class Delta:
    """The way from one payload to another, in paths below /opt/dma-rehearsal.

    First everything in ``remove`` goes; a folder with all that it contains. Then ``files`` are
    written, each with its permissions and contents. A path that ends in "/" is a folder to make.
    """

    remove: list[str]
    files: list[tuple[str, int, bytes]]


def delta(old: Mapping[str, str], new: Payload) -> Delta:
    """Return what turns the files listed in ``old`` (`Payload.listing`) into those of ``new``."""
    listing = new.listing()
    remove: list[str] = []
    for path in sorted(old.keys() - listing.keys()):
        if not (remove and remove[-1].endswith("/") and path.startswith(remove[-1])):
            remove.append(path)
    changed = sorted(path for path, word in listing.items() if old.get(path) != word)
    members = cpio_archive.unpack((new.folder / _ARCHIVE).read_bytes()) if changed else {}
    files = []
    for path in changed:
        member = members[f"{_ROOT}/{path}".rstrip("/")]
        files.append((path, stat.S_IMODE(member.mode), member.data))
    return Delta(remove, files)


def boot_files_digest() -> str:
    """Return a digest of the `BOOT_FILES`, which a guest has loaded before it gets a payload."""
    return build_cache.digest_of(
        {name: [hashlib.sha256((SOURCE / name).read_bytes()).hexdigest()] for name in BOOT_FILES}
    )


def digest(tree: Path, tests: GuestTests, modules: Mapping[str, bytes] = _NOTHING) -> str:
    """Return the digest of the payload that `make` would return; makes nothing."""
    return build_cache.digest_of(_inputs(tree, _sources(tests, modules)))


def make(tree: Path, tests: GuestTests, modules: Mapping[str, bytes] = _NOTHING) -> Payload:
    """Return the payload of a run: this project's ``guest/`` and the tests, with bytecode.

    ``modules`` are the files of the kernel modules under test, by their names.

    It is cached by the digest of its files. The bytecode of a file that has not changed comes from
    an earlier payload. EnvironmentFailure when a file cannot be read, or nothing compiles.
    """
    sources = _sources(tests, modules)
    inputs = _inputs(tree, sources)

    def build(staging: Path) -> dict[str, object]:
        bytecode = _bytecode(tree, sources, inputs["compiler"], staging / "scratch")
        files = dict(sources)
        for each in bytecode.values():
            files |= each
        files = cpio_archive.with_folders(files)
        (staging / _LISTING).write_text(json.dumps(_listing(files)) + "\n")
        (staging / _BYTECODE).write_text(
            json.dumps({source: sorted(made) for source, made in bytecode.items()}) + "\n"
        )
        archive = cpio_archive.with_folders(
            {f"{_ROOT}/{path}": file for path, file in files.items()}
        )
        init = sources[f"{Path(GUEST_FOLDER).relative_to(_ROOT)}/agent/init.py"]
        archive["init"] = cpio_archive.file(init.data, 0o755)
        (staging / _ARCHIVE).write_bytes(cpio_archive.pack(archive))
        return {}

    folder = build_cache.entry(build_cache.PAYLOAD, inputs, build)
    return Payload(folder, folder.name)


def _inputs(tree: Path, sources: Mapping[str, Member]) -> dict[str, Any]:
    return {
        "files": build_cache.digest_of(_listing(sources)),
        "compiler": guest_bytecode.compiler(tree),
        "recipe": build_cache.digest_of(
            [Path(module).read_text() for module in (__file__, cpio_archive.__file__)]
        ),
    }


def _listing(members: Mapping[str, Member]) -> dict[str, str]:
    return {
        f"{path}/" if member.is_folder else path: _word(member) for path, member in members.items()
    }


def _word(member: Member) -> str:
    return f"{member.mode:o} {hashlib.sha256(member.data).hexdigest()}"


def _bytecode(
    tree: Path, sources: Mapping[str, Member], compiler: dict[str, Any], scratch: Path
) -> dict[str, dict[str, Member]]:
    """Return the files of bytecode of each Python file, by their paths."""
    wanted = {path for path, member in sources.items() if _is_python(path, member)}
    found: dict[str, dict[str, Member]] = {}
    for entry in build_cache.entries(build_cache.PAYLOAD)[:_EARLIER]:
        if not (missing := wanted - found.keys()):
            break
        # Another run may remove the entry now, and one that is broken is of no use.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found |= _bytecode_in(entry, {path: sources[path] for path in missing}, compiler)
    missing = wanted - found.keys()
    if missing:
        made = guest_bytecode.compiled(
            tree, {path: sources[path].data for path in missing}, scratch, f"/{_ROOT}"
        )
        remove_tree(scratch)
        for source, files in made.items():
            found[source] = {name: cpio_archive.file(data) for name, data in files.items()}
    return found


def _bytecode_in(
    entry: Path, wanted: Mapping[str, Member], compiler: dict[str, Any]
) -> dict[str, dict[str, Member]]:
    """Return the bytecode that a payload in the cache has of the ``wanted`` sources.

    OSError or ValueError when the entry is gone, or not as it was sealed.
    """
    sealed = manifest.read(entry)
    if sealed["inputs"]["compiler"] != compiler:
        return {}
    listing = json.loads(manifest.content(entry, sealed, _LISTING))
    same = [path for path, member in wanted.items() if listing.get(path) == _word(member)]
    if not same:
        return {}
    made = json.loads(manifest.content(entry, sealed, _BYTECODE))
    members = cpio_archive.unpack(manifest.content(entry, sealed, _ARCHIVE))
    return {path: {name: members[f"{_ROOT}/{name}"] for name in made[path]} for path in same}


def _is_python(path: str, member: Member) -> bool:
    return path.endswith(".py") and not member.is_folder


def is_copied(name: Path) -> bool:
    """Return whether a file of ``guest/``, by its name below it, reaches the guest."""
    left_out = name.parts[0] in KERNEL_CODE
    return not left_out and not any(_is_ignored(part) for part in name.parts)


def _sources(tests: GuestTests, modules: Mapping[str, bytes]) -> dict[str, Member]:
    """Return all files and folders to copy, by their paths below /opt/dma-rehearsal.

    Links are followed. EnvironmentFailure when one cannot be read.
    """
    found: dict[str, Member] = {}
    package, project = (Path(each).relative_to(_ROOT) for each in (PACKAGE_FOLDER, PROJECT_FOLDER))
    _read(SOURCE / "guest", str(package / "guest"), found, *KERNEL_CODE)
    _read(SOURCE / "device" / "layout", str(package / "device" / "layout"), found)
    for folder in package, package / "device":
        found[str(folder / "__init__.py")] = cpio_archive.file(b"")
    for path in tests.files():
        _read(tests.root / path, str(project / path), found)
    for name, data in modules.items():
        found[f"{_MODULES}/{name}"] = cpio_archive.file(data)
    return found


def _read(
    source: Path,
    target: str,
    found: dict[str, Member],
    *left_out: str,
    above: frozenset[tuple[int, int]] = frozenset(),
) -> None:
    """Add ``source`` as ``target``; ``above`` are the folders that it is in."""
    try:
        status = source.stat()
        here = status.st_dev, status.st_ino
        if stat.S_ISREG(status.st_mode):
            found[target] = cpio_archive.file(source.read_bytes(), status.st_mode & 0o777)
            return
        if not stat.S_ISDIR(status.st_mode) or here in above:
            raise EnvironmentFailure(
                f"{source} cannot be copied for the guest: it is a folder that contains itself, "
                "or neither a file nor a folder",
                "remove it",
            )
        names = sorted(os.listdir(source))  # noqa: PTH208 - names, not paths
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not source.is_symlink():
            return  # removed since its folder was listed
        raise EnvironmentFailure(
            f"{source} cannot be read for the guest: {error.strerror}",
            "make it readable, or remove it",
        ) from error
    found[target] = cpio_archive.folder()
    for name in names:
        if name not in left_out and not _is_ignored(name):
            _read(source / name, f"{target}/{name}", found, above=above | {here})


def _is_ignored(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _IGNORED)
