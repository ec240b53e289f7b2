# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that PACKAGES= adds to the guest, as an archive of their own for its boot.

They are of the userland's suite, fetched and verified as the userland is. The guest gets the files
of the named packages and the shared libraries that their programs load. It gets no documentation
and no translations: each megabyte costs memory and 20 ms of boot under emulation. No maintainer
script runs.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cpio_archive,
    debian,
    elf_libraries,
    manifest,
    userland,
)
from dma_rehearsal.host_harness.environment.cpio_archive import Member
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from dma_rehearsal.host_harness.process.janitor import remove_tree

SIZE_MAX = 200 << 20
"""The most bytes that all files may have: a boot has each of them twice in the guest's 1 GiB."""

_ARCHIVE = "packages.cpio"
_LEFT_OUT = (
    *("usr/share/doc/", "usr/share/doc-base/", "usr/share/man/", "usr/share/info/"),
    *("usr/share/locale/", "usr/share/lintian/", "usr/share/bug/", "usr/share/menu/"),
    *("usr/share/bash-completion/", "usr/share/zsh/", "usr/share/initramfs-tools/"),
    *("usr/include/", "usr/src/", "lib/systemd/", "usr/lib/systemd/", "etc/init.d/", "etc/cron."),
)
"""What only people, compilers and an init system read."""
_SHOWN_MAX = 3  # files that an error names


@dataclass(frozen=True, slots=True)
class UserPackages:
    """The archive of a run's packages, a digest of it, and the packages' versions by name."""

    archive: Path
    digest: str
    versions: dict[str, str]


def _inputs(names: Sequence[str]) -> dict[str, Any]:
    return {"suite": userland.SUITE, "packages": sorted(set(names)), "format": 1}


def in_cache(names: Sequence[str]) -> UserPackages | None:
    """Return the packages that the cache holds, by their manifest alone; makes nothing."""
    recorded = build_cache.recorded(build_cache.PACKAGES, _inputs(names))
    return None if recorded is None else _found(names, recorded)


def make(names: Sequence[str], progress: Callable[[str], None]) -> UserPackages:
    """Return the packages of these names, from the cache when they are there.

    UsageError for a name that the suite does not have, and for packages that are too large for the
    guest; EnvironmentFailure when they cannot be fetched.
    """

    def build(staging: Path) -> dict[str, Any]:
        shown = ", ".join(names)
        progress(f"unpacking for the guest, from Debian {userland.SUITE}: {shown} (once)")
        root = staging / "root"
        root.mkdir()
        versions = _unpack(names, root)
        members = _members(names, root)
        _check_size(names, members)
        archive = cpio_archive.pack(cpio_archive.with_folders(members))
        (staging / _ARCHIVE).write_bytes(archive)
        remove_tree(root)
        return {"versions": versions}

    folder = build_cache.entry(build_cache.PACKAGES, _inputs(names), build, progress)
    return _found(names, manifest.read(folder))


def _found(names: Sequence[str], recorded: dict[str, Any]) -> UserPackages:
    folder = build_cache.folder_of(build_cache.PACKAGES, _inputs(names))
    _, digest = recorded["contents"][_ARCHIVE]
    versions = {name: recorded["versions"][name] for name in names}
    return UserPackages(folder / _ARCHIVE, digest, versions)


def _unpack(names: Sequence[str], root: Path) -> dict[str, str]:
    """Unpack the packages; return the versions of all of them, and of what they depend on."""
    try:
        versions = debian.unpack(userland.SUITE, names, root, listed=names)
    except debian.UnknownPackages as error:
        # A package that the user did not name is missing in a mirror that is being updated.
        if unknown := [name for name in error.names if name in names]:
            raise _unknown(names, unknown) from error
        raise
    except EnvironmentFailure as error:
        raise type(error)(f"{_said(names)}: {error.args[0]}", error.hint) from error
    if unknown := [name for name in names if name not in versions]:
        raise _unknown(names, unknown)  # apt(8) reads NAME+ as NAME
    return versions


def _said(names: Sequence[str]) -> str:
    return f"PACKAGES={','.join(names)}"


def _unknown(names: Sequence[str], unknown: Sequence[str]) -> UsageError:
    return UsageError(
        f"{_said(names)}: Debian {userland.SUITE}, the guest's suite, has no package "
        f"{' and no '.join(unknown)}",
        f"look for its name with apt-cache search on Debian {userland.SUITE}, or on Debian's "
        "packages site; a package is often not named as its program is",
    )


def _members(names: Sequence[str], root: Path) -> dict[str, Member]:
    """Return the files for the guest, by their paths in it."""
    members: dict[str, Member] = {}
    programs: list[Path] = []
    for path in (path for name in names for path in debian.files_of(root, name)):
        if path.startswith(_LEFT_OUT) or path.endswith(".a"):
            continue
        file = root / path
        mode = file.lstat().st_mode
        if stat.S_ISLNK(mode):
            members[path] = cpio_archive.link(str(file.readlink()))
        elif stat.S_ISREG(mode):
            members[path] = cpio_archive.file(file.read_bytes(), mode & 0o777)
            if members[path].data.startswith(elf_libraries.MAGIC):
                programs.append(file)
    for library in debian.needed_libraries(root, programs):
        path = str(library.relative_to(root))
        if path not in members:
            data = debian.within(root, path).read_bytes()
            members[path] = cpio_archive.file(data, 0o755)
    return members


def _check_size(names: Sequence[str], members: dict[str, Member]) -> None:
    size = sum(len(member.data) for member in members.values())
    if size <= SIZE_MAX:
        return
    largest = sorted(members, key=lambda path: -len(members[path].data))[:_SHOWN_MAX]
    shown = ", ".join(f"{path} ({len(members[path].data) >> 20} MiB)" for path in largest)
    raise UsageError(
        f"{_said(names)}: their files have {size >> 20} MiB, and the guest has room for "
        f"{SIZE_MAX >> 20}; the largest are {shown}",
        "name fewer packages, or smaller ones",
    )
