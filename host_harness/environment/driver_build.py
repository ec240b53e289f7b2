# SPDX-License-Identifier: Apache-2.0
"""The three ways of building a kernel module, and the choice between them.

- ``chroot``: root enters the kernel's unpacked tree and uses the compiler in it.
- ``userns``: an ordinary user does the same in user and mount namespaces of its own.
- ``host``: nothing is entered; the host's compiler reads the tree's kernel headers.

DMA_REHEARSAL_BUILD names one; else the first that works, in this order, is taken.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from dma_rehearsal.host_harness.environment import debian, host_tools
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.process import children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError

SETTING = "DMA_REHEARSAL_BUILD"
_PROBE_TIMEOUT_S = 30
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
# The mounts are private and end with the namespaces: nothing can be left mounted.
_ENTER = (
    'mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" '  # objtool reads its limits
    '&& mount --bind "$1" "$0/mnt" && cd / && exec chroot "$0" /bin/sh -ec "$2"'
)


class Way(StrEnum):
    """A way of building a module."""

    CHROOT = "chroot"
    USERNS = "userns"
    HOST = "host"


def asked() -> Way | None:
    """Return the way that DMA_REHEARSAL_BUILD names; UsageError for an unknown name."""
    text = os.environ.get(SETTING)
    if not text:
        return None
    try:
        return Way(text)
    except ValueError:
        raise UsageError(
            f"{SETTING}={text} is not a way of building a module",
            f"use one of: {', '.join(Way)}",
        ) from None


def _prefix(way: Way) -> list[str]:
    namespaces = ["--mount", "--propagation", "private"]
    if way is Way.USERNS:
        namespaces = ["--user", "--map-root-user", *namespaces]
    return ["unshare", *namespaces, "--", "sh", "-ec"]


def unavailable_reason(way: Way) -> str | None:
    """Return why this machine does not allow a way, None when it does. Probes; builds nothing."""
    if way is Way.HOST:
        lacking = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
        try:
            ctypes.CDLL("libelf.so.1")
        except OSError:
            lacking.append("libelf.so.1")
        return f"not installed: {', '.join(lacking)}" if lacking else None
    if way is Way.CHROOT and os.geteuid() != 0:
        return "only root may enter a chroot"
    # A namespace alone proves nothing: some systems allow it and then refuse the mount.
    script = "mount --rbind /dev /tmp && exec chroot / /bin/sh -c :"
    try:
        done = children.run(
            [*_prefix(way), script], timeout_s=_PROBE_TIMEOUT_S, environment=_ENVIRONMENT
        )
    except FileNotFoundError:
        return "unshare is not installed (util-linux)"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the probe failed: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    reason = f"{lines[-1]}"
    for setting, bad in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        path = Path(setting)
        if way is Way.USERNS and path.exists() and path.read_text().strip() == bad:
            reason += f" ({path.name} is {bad})"
    return reason


def hint(way: Way) -> str:
    """Return what makes a way work."""
    return {
        Way.CHROOT: "run as root on a machine, or in a container, that lets root mount",
        Way.USERNS: "allow user namespaces (sysctl user.max_user_namespaces, on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0), or use the host's compiler: "
        + host_tools.install(*dict.fromkeys(host_tools.COMPILER_PACKAGES.values())),
        Way.HOST: host_tools.install(*dict.fromkeys(host_tools.COMPILER_PACKAGES.values())),
    }[way]


def choose(kernel: KernelTree | None = None) -> Way:
    """Return the way that is asked for, else the first that works here.

    A kernel that the user has built has one way: the host's compiler, in its own tree.
    EnvironmentFailure with the reasons when it does not work; UsageError for an unknown name.
    """
    if kernel is not None and kernel.is_built:
        if reason := unavailable_reason(Way.HOST):
            raise EnvironmentFailure(
                f"no module can be built for KERNEL={kernel.name}: {reason}", hint(Way.HOST)
            )
        return Way.HOST
    if (forced := asked()) is not None:
        if reason := unavailable_reason(forced):
            raise EnvironmentFailure(
                f"{SETTING}={forced}, but that does not work here: {reason}",
                f"unset {SETTING}, or: {hint(forced)}",
            )
        return forced
    reasons = []
    for way in Way:
        if (reason := unavailable_reason(way)) is None:
            return way
        reasons.append(f"{way}: {reason}")
    raise EnvironmentFailure(
        "a kernel module cannot be built here in any way:\n  " + "\n  ".join(reasons),
        hint(Way.HOST),
    )


def root_of(way: Way, work: Path) -> str:
    """Return the path of ``work`` as a build in this way has it."""
    return str(work) if way is Way.HOST else "/mnt"


def make_modules(
    kernel: KernelTree, way: Way, work: Path, words: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run Kbuild for the modules in ``work``; ``words``, such as M=, are for make.

    Their paths are those of the build (`root_of`).
    """
    if kernel.is_built:
        return _run_make(kernel.headers, [*kernel.make_words, *words], timeout_s)
    if way is Way.HOST:
        return _run_on_host(kernel.root, kernel.headers, work, words, timeout_s)
    headers = f"/{kernel.headers.relative_to(kernel.root)}"
    script = shlex.join(["make", "-C", headers, *words, "modules"])
    return run_inside(way, kernel.root, work, script, timeout_s)


def run_inside(
    way: Way, tree: Path, work: Path, script: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a shell script with ``tree`` as its root and ``work`` as its /mnt.

    ``way`` is CHROOT or USERNS. Nothing is written into the tree, which has dev/, proc/ and mnt/.
    """
    command = [*_prefix(way), _ENTER, str(tree), str(work), script]
    return children.run(command, timeout_s=timeout_s, environment=_ENVIRONMENT)


def _run_on_host(
    tree: Path, headers: Path, work: Path, words: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Build the module in ``work`` with the host's compiler and the ``headers`` of ``tree``.

    The headers' makefiles name /usr/src and link upwards, so a copy beside ``work`` names the tree.
    """
    copy = work.parent / "headers"
    shutil.copytree(headers, copy, symlinks=True)
    for link in [path for path in copy.iterdir() if path.is_symlink()]:
        link.unlink()
        link.symlink_to(debian.within(tree, (headers / link.name).relative_to(tree)))
    makefile = copy / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    return _run_make(copy, ["CC=gcc", *words], timeout_s)


def _run_make(
    folder: Path, words: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return children.run(
        ["make", "-C", str(folder), *words, "modules"],
        timeout_s=timeout_s,
        environment={**os.environ, "LC_ALL": "C", "MAKEFLAGS": ""},
    )
