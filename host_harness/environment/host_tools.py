# SPDX-License-Identifier: Apache-2.0
"""The host's programs that the harness runs, and the Debian and Ubuntu packages of each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dma_rehearsal.host_harness.environment import disk_space
from dma_rehearsal.host_harness.process import advice, children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

# Program: its package. bootstrap.sh installs the same packages (tests compare the two).
PACKAGES = {
    "python3": "python3",
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "lz4": "lz4",
    "zstd": "zstd",
    "xz": "xz-utils",
    "cpio": "cpio",
    "unshare": "util-linux",
    "flock": "util-linux",
    "git": "git",
    "make": "make",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Where user namespaces are restricted the driver is built by the host's compiler; objtool, which
# comes with Debian's kernel headers, needs libelf.
COMPILER_PACKAGES = {"gcc": "gcc", "make": "make", "libelf.so.1": "libelf1"}


def install(*packages: str) -> str:
    """Return the advice for installing packages."""
    return f"as root, run: apt-get update && apt-get install -y {' '.join(packages)}"


def path_of(program: str) -> str:
    """Return a program's path; EnvironmentFailure with its package when it is not installed."""
    found = shutil.which(program)
    if found is None:
        package = PACKAGES.get(program) or COMPILER_PACKAGES.get(program) or program
        raise EnvironmentFailure(f"{program} is not installed", install(package))
    return found


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    input: bytes = b"",
    stdout: int | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program that must succeed and return its output (nothing where ``stdout`` takes it).

    EnvironmentFailure with the end of its output when it is missing or fails; OSError ENOSPC when
    it says that the disk is full; subprocess.TimeoutExpired after ``timeout_s`` seconds.
    """
    words = [path_of(command[0]), *command[1:]]
    if stdout is None:
        done = children.run(words, timeout_s=timeout_s, input=input, cwd=cwd)
    else:
        done = children.run(words, timeout_s=timeout_s, input=input, cwd=cwd, stdout=stdout)
    if done.returncode != 0:
        said = done.stderr + done.stdout
        disk_space.check_output(said)
        last = "\n".join(said.strip().splitlines()[-5:]) or "nothing"
        raise EnvironmentFailure(
            f"{command[0]} failed with status {done.returncode}; it said: {last}",
            f"run again; if it fails again: {advice.command('doctor')}",
        )
    return done.stdout
