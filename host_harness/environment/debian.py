# SPDX-License-Identifier: Apache-2.0
"""Packages of a Debian suite, unpacked into a private folder, and programs run out of it.

``mmdebstrap --variant=extract --mode=chrootless`` resolves and unpacks with apt's signature
checks on, needs no privileges and runs nothing inside the folder. No mirror is named here:
mmdebstrap has a default one, and a Debian host's own apt settings know another.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dma_rehearsal.host_harness.environment import disk_space, elf_libraries, host_tools
from dma_rehearsal.host_harness.process import children, janitor
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib")
LOADER = "lib64/ld-linux-x86-64.so.2"  # below usr/ where an extract has no merged-/usr links
_LISTS = (
    "var/lib/dpkg/info"  # dpkg(1): NAME.list has the files of a package, which extract leaves out
)
_EXTRACT_TIMEOUT_S = 900
_MOST_LINKS = 40  # as Linux follows in one path (path_resolution(7))


def _host_mirrors() -> list[str]:
    """Return the sites that this host's own apt uses for a Debian main archive, if any."""
    listing_command = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]
    try:
        listing = children.run(listing_command, timeout_s=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = (line.split("|") for line in listing.splitlines() if line.count("|") == 2)
    return sorted({uri for origin, label, uri in found if origin == label == "Debian"})


class NoNetwork(EnvironmentFailure):
    """No mirror can be reached at all."""


class UnknownPackages(EnvironmentFailure):
    """The suite has no packages of these ``names``."""

    def __init__(self, message: str, hint: str, names: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.names = tuple(names)


_NO_NETWORK = "no network"
# A message of apt or mmdebstrap (in the C locale), its cause, and the next step. The order counts:
# a mirror that answered tells more than a second one that cannot be reached.
_CAUSES = (
    (
        r"command not found|cannot exec |required for verification, but neither|"
        r"Couldn't execute|Can't exec ",
        "a tool that it calls is missing",
        host_tools.install("apt", "mmdebstrap", "debian-archive-keyring"),
    ),
    (
        r"NO_PUBKEY|is not signed|couldn't be verified|signatures? (?:were|was) invalid|EXPKEYSIG",
        "its signature cannot be checked",
        host_tools.install("debian-archive-keyring") + " (a newer one, when it is installed)",
    ),
    (
        r"\b(?:40[0-9]|50[0-9])\s+[A-Z]|does not have a Release file|Hash Sum mismatch|"
        r"unexpected size|Unable to locate package|has no installation candidate|"
        r"unmet dependencies|redirection",
        "a mirror refuses, or is being updated",
        "run again later, or name another mirror in the host's apt settings (apt-get update "
        "must work)",
    ),
    (
        r"Temporary failure resolving|Could not resolve|Name or service not known|"
        r"Network is unreachable|No route to host|Could not connect|Unable to connect|"
        r"Connection (?:timed out|refused|failed)|Could not wait for server",
        _NO_NETWORK,
        "connect this machine, or set apt's proxy (Acquire::http::Proxy), then run again; what "
        "is in the cache needs no network",
    ),
)

_UNKNOWN = re.compile(
    r"Unable to locate package (\S+)|Package '([^']+)' has no installation candidate"
)


def explain(suite: str, said: str) -> EnvironmentFailure:
    """Return the failure for what mmdebstrap said of ``suite``: its cause and the next step."""
    complaints = [line for line in said.splitlines() if re.match(r"\s*(?:E:|Err:|error:)", line)]
    lines = list(dict.fromkeys(complaints or said.strip().splitlines()))
    detail = "\n".join(lines[-6:])
    unknown = [first or second for first, second in _UNKNOWN.findall(said)]
    for pattern, cause, hint in _CAUSES:
        if re.search(pattern, said):
            words = (
                f"Debian's {suite} packages cannot be fetched: {cause}. mmdebstrap said:\n{detail}"
            )
            if cause == _NO_NETWORK:
                return NoNetwork(words, hint)
            if unknown:
                return UnknownPackages(words, hint, list(dict.fromkeys(unknown)))
            return EnvironmentFailure(words, hint)
    return EnvironmentFailure(
        f"Debian's {suite} packages cannot be fetched; mmdebstrap said:\n{detail}",
        "check the network and the host's apt settings (apt-get update), then run again",
    )


def _backports_hook(suite: str, pattern: str) -> str:
    """Return the shell lines that add a suite's backports, and prefer packages from them by name.

    The sites are those that mmdebstrap has written for the suite itself.
    """
    return (
        'cd "$1"/etc/apt && mkdir -p sources.list.d preferences.d && '
        "cat sources.list sources.list.d/*.list 2>/dev/null | "
        f"sed -n 's|^\\(deb .*\\) {suite} |\\1 {suite}-backports |p' >backports && "
        "test -s backports && mv backports sources.list.d/backports.list && "
        f"printf 'Package: %s\\nPin: release n={suite}-backports\\nPin-Priority: 990\\n' "
        f"'{pattern}' >preferences.d/backports"
    )


def _archives_hook(listed: Sequence[str]) -> str:
    """Return the shell lines that name all archives, and write dpkg's lists of ``listed``."""
    lines = ["""cd "$1"/var/cache/apt/archives && printf 'deb:%s\\n' *.deb"""]
    if listed:
        lines.append(f'mkdir -p "$1"/{_LISTS} || exit 1')
    for name in map(shlex.quote, listed):
        lines.append(
            f'for each in {name}_*.deb; do dpkg-deb --fsys-tarfile "$each" | '
            f'tar --quoting-style=literal -tf - >"$1"/{_LISTS}/{name}.list || exit 1; done'
        )
    return "\n".join(lines)


def files_of(tree: Path, package: str) -> list[str]:
    """Return the paths of a package's files and links, below ``tree``; in order, no folders.

    FileNotFoundError for a package that was not unpacked, or not listed, by `unpack`.
    """
    lines = (tree / _LISTS / f"{package}.list").read_text().splitlines()
    return sorted(line.removeprefix("./") for line in lines if not line.endswith("/"))


def unpack(
    suite: str,
    packages: Sequence[str],
    target: Path,
    *,
    from_backports: str = "",
    listed: Sequence[str] = (),
) -> dict[str, str]:
    """Unpack ``packages`` and all that they depend on into ``target``.

    Packages whose names match ``from_backports`` (as apt_preferences(5) has it) are those of the
    suite's backports. `files_of` tells the files of those in ``listed``. Returns the resolved
    versions by package name. EnvironmentFailure with the cause when no mirror had them; OSError
    ENOSPC when the disk is full.
    """
    tool = host_tools.path_of("mmdebstrap")
    if not host_tools.KEYRING.exists():
        raise EnvironmentFailure(
            f"Debian's keys are not installed ({host_tools.KEYRING})",
            host_tools.install("debian-archive-keyring"),
        )
    attempts: list[list[str]] = [[], *([uri] for uri in _host_mirrors())]
    said = ""
    for mirror in attempts:
        command = [
            tool,
            "--mode=chrootless",
            "--variant=extract",
            "--format=directory",
            f"--include={','.join(packages)}",
            '--aptopt=Acquire::Check-Valid-Until "false"',  # mirrors lag behind the clock
            '--aptopt=Acquire::http::Timeout "30"',
            '--aptopt=Acquire::Retries "1"',
            *([f"--setup-hook={_backports_hook(suite, from_backports)}"] * bool(from_backports)),
            # Only here can the resolved versions be seen: extract writes no dpkg status.
            f"--extract-hook={_archives_hook(listed)}",
            suite,
            str(target),
            *mirror,
        ]
        # Its temporary files go beside the target, where the janitor removes those of a killed one.
        scratch = target.parent / "scratch"
        scratch.mkdir()
        environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "", "TMPDIR": str(scratch)}
        try:
            done = children.run(command, timeout_s=_EXTRACT_TIMEOUT_S, environment=environment)
        except subprocess.TimeoutExpired as error:
            raise EnvironmentFailure(
                f"unpacking {suite} took longer than {_EXTRACT_TIMEOUT_S} s",
                "look at the network, then run again",
            ) from error
        finally:
            janitor.remove_tree(scratch)
        output = done.stdout + done.stderr
        if done.returncode == 0:
            names = re.findall(r"^deb:([^_\s]+)_([^_\s]+)_", output, re.MULTILINE)
            return {name: version.replace("%3a", ":") for name, version in names}
        disk_space.check_output(output)
        said += output
        for leftover in target.iterdir():
            janitor.remove_tree(leftover)
    raise explain(f"{suite}-backports" if from_backports else suite, said)


def within(tree: Path, name: str | Path) -> Path:
    """Return the file that ``name`` is for a program whose root is ``tree``, all links followed.

    Packages link by absolute paths (libc6's loader does), which from the host's own root would be
    the host's files: another libc. OSError ELOOP after 40 links. For a missing file the result is
    the path where it would be.
    """
    left = list(Path(name).parts)[::-1]
    path = tree
    links = 0
    while left:
        part = left.pop()
        if part == "/":
            path = tree
        elif part == "..":
            path = path if path == tree else path.parent
        elif (path / part).is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(tree / name))
            left += (path / part).readlink().parts[::-1]
        else:
            path /= part
    return path


def _loader(tree: Path) -> list[str]:
    candidates = [within(tree, LOADER), within(tree, f"usr/{LOADER}")]
    loader = next((path for path in candidates if path.exists()), candidates[0])
    libraries = ":".join(str(tree / folder) for folder in LIBRARY_FOLDERS)
    return [str(loader), "--library-path", libraries]


def loader_command(tree: Path, program: str) -> list[str]:
    """Return the start of an argv that runs ``program`` of ``tree`` by the tree's own loader.

    So a program of one Debian release runs on another's libc, with no chroot and no privileges.
    """
    executable = str(tree / program)
    return [*_loader(tree), "--argv0", executable, executable]


def needed_libraries(tree: Path, binaries: Sequence[Path]) -> set[Path]:
    """Return the shared libraries of ``tree`` that ``binaries`` load, by the paths that are loaded.

    A library that the tree lacks is left out, and so is a file that is not a 64-bit ELF file.
    """
    found: set[Path] = set()
    waiting = list(binaries)
    while waiting:
        binary = waiting.pop()
        loads = elf_libraries.read(within(tree, binary.relative_to(tree)))
        origin = binary.parent.relative_to(tree)
        folders = [Path(each.replace("$ORIGIN", f"/{origin}")) for each in loads.search_path]
        for name in loads.needed:
            for folder in (*folders, *map(Path, LIBRARY_FOLDERS)):
                path = tree / str(folder).lstrip("/") / name
                if within(tree, path.relative_to(tree)).is_file():
                    if path not in found:
                        found.add(path)
                        waiting.append(path)
                    break
    return found
