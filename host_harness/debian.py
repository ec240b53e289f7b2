"""Packages of a Debian suite, unpacked into a private folder, and programs run out of it.

``mmdebstrap --variant=extract --mode=chrootless`` resolves and unpacks with apt's signature
checks on, needs no privileges and runs nothing inside the folder. No mirror is named here:
mmdebstrap has a default one, and a Debian host's own apt settings know another.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import EnvironmentFailure

LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib")
_LOADER = "lib64/ld-linux-x86-64.so.2"  # below usr/ where an extract has no merged-/usr links
_EXTRACT_TIMEOUT_S = 900


def _host_mirrors() -> list[str]:
    """Return the sites that this host's own apt uses for a Debian main archive, if any."""
    try:
        listing = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = (line.split("|") for line in listing.splitlines() if line.count("|") == 2)
    return sorted({uri for origin, label, uri in found if origin == label == "Debian"})


def unpack(suite: str, packages: Sequence[str], target: Path) -> dict[str, str]:
    """Unpack ``packages`` and all that they depend on into ``target``.

    Returns the resolved versions by package name. EnvironmentFailure with the end of the tool's
    output when no mirror gave them.
    """
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise EnvironmentFailure(
            "mmdebstrap is not installed", "apt-get install mmdebstrap debian-archive-keyring"
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
            # The one place where the resolved versions can be seen: extract writes no dpkg status.
            """--extract-hook=cd "$1"/var/cache/apt/archives && printf 'deb:%s\\n' *.deb""",
            suite,
            str(target),
            *mirror,
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_EXTRACT_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise EnvironmentFailure(
                f"unpacking {suite} took longer than {_EXTRACT_TIMEOUT_S} s",
                "look at the network, then run again",
            ) from error
        output = done.stdout + done.stderr
        if done.returncode == 0:
            names = re.findall(r"^deb:([^_\s]+)_([^_\s]+)_", output, re.MULTILINE)
            return {name: version.replace("%3a", ":") for name, version in names}
        said += "\n".join(output.splitlines()[-6:]) + "\n"
        for leftover in target.iterdir() if target.is_dir() else ():
            shutil.rmtree(leftover, ignore_errors=True)
    raise EnvironmentFailure(
        f"Debian's {suite} packages cannot be fetched; mmdebstrap said:\n{said.rstrip()}",
        "check the network and the host's apt settings (apt-get update), then run again",
    )


def _loader(tree: Path) -> list[str]:
    candidates = [tree / _LOADER, tree / "usr" / _LOADER]
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
    """Return the shared libraries of ``tree`` that ``binaries`` load, as its loader says."""
    found: set[Path] = set()
    for binary in binaries:
        listing = subprocess.run(
            [*_loader(tree), "--list", str(binary)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        for name in re.findall(r"=> (/\S+)", listing):
            path = Path(name)
            if path.is_relative_to(tree):
                found.add(path)
    return found


def run_inside(
    tree: Path, script: str, timeout_s: float
) -> subprocess.CompletedProcess[str] | None:
    """Run a shell script with ``tree`` as its root, in mount and user namespaces of its own.

    Returns None where this machine does not allow that (no privilege and no user namespaces).
    The namespaces take the mounts with them, so nothing can be left mounted.
    """
    enter = 'mount --rbind /dev "$0/dev" && exec chroot "$0" /bin/sh -ec "$1"'
    namespaces = ["--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        namespaces.append("--map-root-user")
    prefix = ["unshare", *namespaces, "--", "sh", "-ec", enter, str(tree)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    (tree / "dev").mkdir(exist_ok=True)
    try:
        probe = subprocess.run(
            [*prefix, "true"], capture_output=True, timeout=30, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if probe.returncode != 0:
        return None
    return subprocess.run(
        [*prefix, script],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
