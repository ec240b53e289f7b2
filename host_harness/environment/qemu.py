# SPDX-License-Identifier: Apache-2.0
"""Finds a QEMU that has ``vfio-user-pci``, or unpacks a private one.

QEMU >= 10.1 is needed. A feature is probed by what QEMU prints: ``-device nosuchdev,help`` exits 0,
and version numbers do not tell how a distribution built it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache, debian
from dma_rehearsal.host_harness.environment.probe_notes import ProbeNote
from dma_rehearsal.host_harness.process import advice, children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from dma_rehearsal.host_harness.process.janitor import remove_tree

# Tried in this order: the suites of Debian that carry QEMU >= 10.1.
_SUITES = ("forky", "sid")
_PACKAGES = ("qemu-system-x86",)
_DEVICES = ("vfio-user-pci", "edu")  # how ours are plugged in, and the one for a second opinion
_PROBE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Qemu:
    """A usable QEMU: the first words of its argv and the variables that it needs."""

    command: tuple[str, ...]
    version: str
    origin: str
    environment: dict[str, str] = field(default_factory=dict)

    def full_environment(self) -> dict[str, str]:
        """Return the environment of this process with QEMU's additions."""
        return {**os.environ, **self.environment}


class NotUsable(Exception):
    """A QEMU cannot be used; the message says why. ``hangs``: it may be the machine's fault."""

    hangs = False


class Hangs(NotUsable):
    """The QEMU gave no answer in time."""

    hangs = True


def _output(qemu: Qemu, *arguments: str) -> str:
    """Return what QEMU prints; NotUsable when it hangs, crashes or does not start."""
    try:
        done = children.run(
            [*qemu.command, *arguments],
            timeout_s=_PROBE_TIMEOUT_S,
            environment=qemu.full_environment(),
        )
    except subprocess.TimeoutExpired:
        raise Hangs(f"it hangs: no answer within {_PROBE_TIMEOUT_S} s") from None
    except OSError as error:
        raise NotUsable(f"it does not start: {error.strerror or error}") from None
    if done.returncode < 0:
        raise NotUsable(f"it crashes ({signal.Signals(-done.returncode).name})")
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise NotUsable(f"it fails: {said}")
    return done.stdout


def _probe(command: tuple[str, ...], origin: str, environment: dict[str, str]) -> Qemu:
    """Return the QEMU if it has what a run plugs in; NotUsable says what is wrong with it."""
    bare = Qemu(command, "", origin, environment)
    # Without -nodefaults it aborts where the host has modules of another QEMU installed.
    devices = _output(
        bare, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none",
        "-device", "help",
    )  # fmt: skip
    found = re.search(r"version (\S+)", _output(bare, "--version"))
    version = found.group(1) if found else "of an unknown version"
    for device in _DEVICES:
        if f'"{device}"' not in devices:
            raise NotUsable(f"QEMU {version} has no {device} device")
    return Qemu(command, version, origin, environment)


def _private(folder: Path) -> Qemu:
    """Return the private QEMU of an entry, once it has been probed; NotUsable as `_probe`."""
    bare = _unprobed(folder)
    return _probe(bare.command, bare.origin, bare.environment)


def _remembered(folder: Path) -> Qemu:
    """Return the private QEMU of an entry; probe it once for each boot of this machine.

    It brings all its libraries, so as long as its files are as they were, it works as it did. A
    host's own QEMU can change with any library of the host.
    """
    bare = _unprobed(folder)
    note = _note(bare)
    if version := note.read():
        return replace(bare, version=version)
    found = _probe(bare.command, bare.origin, bare.environment)
    note.write(found.version)
    return found


def _note(qemu: Qemu) -> ProbeNote:
    files = []
    for path in map(Path, qemu.command):
        with contextlib.suppress(OSError):
            status = path.stat()
            files.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    inputs = {"command": qemu.command, "files": files, "devices": _DEVICES}
    return ProbeNote(build_cache.PROBED_FOLDER, inputs)


def _unprobed(folder: Path) -> Qemu:
    root = folder / "root"
    command = [
        *debian.loader_command(root, "usr/bin/qemu-system-x86_64"),
        *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
    ]
    modules = str(root / "usr/lib/x86_64-linux-gnu/qemu")
    origin = f"private, {folder.name}"
    return Qemu(tuple(command), "", origin, {"QEMU_MODULE_DIR": modules})


def _inputs() -> dict[str, object]:
    return {"suites": _SUITES, "packages": _PACKAGES, "format": 2}


def given(note: Callable[[str], None]) -> Qemu | None:
    """Return the user's own QEMU: $QEMU, or the one on PATH; None where a private one is needed.

    EnvironmentFailure when $QEMU is set and cannot be used. One on PATH that cannot be used is
    passed over, and ``note`` is told why.
    """
    if chosen := os.environ.get("QEMU"):
        try:
            return _probe((chosen,), "$QEMU", {})
        except NotUsable as error:
            raise EnvironmentFailure(
                f"QEMU={chosen} cannot be used: {error}",
                "name a QEMU >= 10.1 built with vfio-user, or unset QEMU to use a private one",
            ) from None
    on_path = shutil.which("qemu-system-x86_64")
    if on_path is not None:
        try:
            return _probe((on_path,), "PATH", {})
        except NotUsable as error:
            note(f"{on_path} is passed over for a private QEMU: {error}")
    return None


def cached() -> Qemu | None:
    """Return the private QEMU that the cache holds, None when it has to be made. Makes nothing.

    EnvironmentFailure when it is there and does not work.
    """
    if build_cache.recorded(build_cache.QEMU, _inputs()) is None:
        return None
    return _checked(build_cache.folder_of(build_cache.QEMU, _inputs()))


def why_no_states(found: Qemu) -> str:
    """Return why this QEMU cannot save a machine's state beside its memory; empty when it can."""
    asked = b'{"execute": "qmp_capabilities"}{"execute": "query-migrate-capabilities"}'
    command = [*found.command, "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    try:
        done = children.run(
            [*command, "-qmp", "stdio"],
            timeout_s=_PROBE_TIMEOUT_S,
            input=asked + b'{"execute": "quit"}',
            environment=found.full_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"it gives no answer within {_PROBE_TIMEOUT_S:g} s"
    except OSError as error:
        return f"it does not start: {error.strerror or error}"
    return "" if '"x-ignore-shared"' in done.stdout else "it has no x-ignore-shared"


def _checked(folder: Path) -> Qemu:
    try:
        return _private(folder)
    except NotUsable as error:
        raise EnvironmentFailure(
            f"the private QEMU in {folder} cannot be used: {error}",
            f"{advice.command('clean-cache')}, then run again; or set QEMU to a QEMU >= 10.1 with "
            "vfio-user-pci",
        ) from None


def find(progress: Callable[[str], None]) -> Qemu:
    """Return a QEMU with vfio-user-pci: $QEMU, the one on PATH, or a private one in the cache.

    EnvironmentFailure when $QEMU is set and does not have it, or when none is available.
    """
    if (own := given(progress)) is not None:
        return own

    def build(staging: Path) -> dict[str, object]:
        refusals = []
        hint = ""
        for suite in _SUITES:
            progress(f"unpacking QEMU from Debian {suite} (about 190 MB, once)")
            root = staging / "root"
            root.mkdir()
            try:
                versions = debian.unpack(suite, _PACKAGES, root)
                _private(staging)
                return {"suite": suite, "versions": versions}
            except EnvironmentFailure as error:
                refusals.append(str(error.args[0]))
                hint = hint or error.hint
                if isinstance(error, debian.NoNetwork):
                    break  # another suite needs the network, too
            except NotUsable as error:
                refusals.append(f"the one of Debian {suite}: {error}")
            remove_tree(root)
        raise EnvironmentFailure(
            "no QEMU with vfio-user-pci is available:\n" + "\n".join(refusals),
            f"{hint or 'run again later'}; or set QEMU to a QEMU >= 10.1 with vfio-user-pci",
        )

    folder = build_cache.entry(build_cache.QEMU, _inputs(), build, progress)
    try:
        return _remembered(folder)
    except NotUsable as error:
        if error.hangs or not build_cache.discard(folder):
            return _checked(folder)
        progress(f"the cached QEMU is broken ({error}); making it again")
    return _checked(build_cache.entry(build_cache.QEMU, _inputs(), build, progress))
