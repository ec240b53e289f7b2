"""Find a QEMU that has ``vfio-user-pci``, or unpack a private one; choose its accelerator.

QEMU >= 10.1 is needed. A feature is probed by what QEMU prints: ``-device nosuchdev,help`` exits 0,
and version numbers say nothing of how a distribution built it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import cache, debian
from .errors import EnvironmentFailure, UsageError

# Tried in this order: the suites of Debian that carry QEMU >= 10.1.
_SUITES = ("forky", "sid")
_PACKAGES = ("qemu-system-x86",)
_PROBE_TIMEOUT_S = 30
_KVM_PROBE_TIMEOUT_S = 8


@dataclass(frozen=True, slots=True)
class Qemu:
    """How to start QEMU: the first words of its argv and what its environment needs."""

    command: tuple[str, ...]
    version: str
    origin: str
    environment: dict[str, str] = field(default_factory=dict)

    def full_environment(self) -> dict[str, str]:
        """Return the environment of this process with QEMU's additions."""
        return {**os.environ, **self.environment}


def _output(qemu: Qemu, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [*qemu.command, *arguments],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
            env=qemu.full_environment(),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _probe(command: tuple[str, ...], origin: str, environment: dict[str, str]) -> Qemu | None:
    """Return the QEMU if it has vfio-user-pci, else None."""
    bare = Qemu(command, "", origin, environment)
    # Without -nodefaults it aborts where the host has modules of another QEMU installed.
    devices = _output(
        bare, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none",
        "-device", "help",
    )  # fmt: skip
    if '"vfio-user-pci"' not in devices:
        return None
    found = re.search(r"version (\S+)", _output(bare, "--version"))
    return Qemu(command, found.group(1) if found else "unknown", origin, environment)


def _private(folder: Path) -> Qemu | None:
    root = folder / "root"
    command = [
        *debian.loader_command(root, "usr/bin/qemu-system-x86_64"),
        *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
    ]
    modules = str(root / "usr/lib/x86_64-linux-gnu/qemu")
    return _probe(tuple(command), f"private, {folder.name}", {"QEMU_MODULE_DIR": modules})


def find(progress: Callable[[str], None]) -> Qemu:
    """Return a QEMU with vfio-user-pci: $QEMU, the one on PATH, or a private one in the cache.

    EnvironmentFailure when $QEMU is set and does not have it, or when none can be had.
    """
    if chosen := os.environ.get("QEMU"):
        qemu = _probe((chosen,), "$QEMU", {})
        if qemu is None:
            raise EnvironmentFailure(
                f"QEMU={chosen} has no vfio-user-pci device (or does not start)",
                "name a QEMU >= 10.1 built with vfio-user, or unset QEMU to use a private one",
            )
        return qemu
    on_path = shutil.which("qemu-system-x86_64")
    if on_path and (qemu := _probe((on_path,), "PATH", {})):
        return qemu

    def build(staging: Path) -> dict[str, object]:
        refusals = []
        for suite in _SUITES:
            progress(f"unpacking QEMU from Debian {suite} (about 190 MB, once)")
            root = staging / "root"
            root.mkdir()
            try:
                versions = debian.unpack(suite, _PACKAGES, root)
            except EnvironmentFailure as error:
                refusals.append(str(error))
                cache.remove_tree(root)
                continue
            if _private(staging) is not None:
                return {"suite": suite, "versions": versions}
            refusals.append(f"QEMU {versions.get('qemu-system-x86')} has no vfio-user-pci")
            cache.remove_tree(root)
        raise EnvironmentFailure(
            "no QEMU with vfio-user-pci can be had:\n" + "\n".join(refusals),
            "check the network, or set QEMU to a QEMU >= 10.1 with vfio-user-pci",
        )

    folder = cache.entry("qemu", {"suites": _SUITES, "packages": _PACKAGES, "format": 1}, build)
    qemu = _private(folder)
    if qemu is None:
        raise EnvironmentFailure(
            f"the cached QEMU in {folder} does not start", "make clean-cache, then run again"
        )
    return qemu


def choose_accelerator(qemu: Qemu, kernel: Path, wanted: str | None) -> tuple[str, str]:
    """Return the accelerator ("kvm" or "tcg") and one line that says why.

    ``wanted`` is None, "kvm" or "tcg". An open /dev/kvm proves nothing, so a tiny VM boots
    ``kernel`` under a time limit. UsageError for another word, EnvironmentFailure when "kvm" was
    asked for and does not work.
    """
    if wanted not in (None, "", "kvm", "tcg"):
        raise UsageError(f"ACCEL={wanted} is not an accelerator", "use ACCEL=kvm or ACCEL=tcg")
    if wanted == "tcg":
        return "tcg", "tcg, as asked"
    reason = _remembered_why_no_kvm(qemu, kernel)
    if reason is None:
        return "kvm", "kvm (a probe VM booted a kernel)"
    if wanted == "kvm":
        raise EnvironmentFailure(
            f"ACCEL=kvm, but KVM does not work here: {reason}", "run without ACCEL to use tcg"
        )
    return "tcg", f"tcg (no KVM: {reason})"


def _remembered_why_no_kvm(qemu: Qemu, kernel: Path) -> str | None:
    """Probe KVM, but a probe that failed only once for each boot of this machine."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    inputs = {"boot": boot_id, "qemu": qemu.command, "version": qemu.version, "uid": os.geteuid()}
    note = cache.cache_root() / "no-kvm" / cache.digest_of(inputs)
    if note.is_file():
        return note.read_text()
    reason = _why_no_kvm(qemu, kernel)
    if reason is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(reason)
        partial.rename(note)
    return reason


def _why_no_kvm(qemu: Qemu, kernel: Path) -> str | None:
    """Return None when KVM boots a kernel to its first panic, else why not."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    # Without an initramfs the kernel panics, and panic=-1 with -no-reboot ends QEMU at once.
    command = [
        *qemu.command,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256M"),
        *("-kernel", str(kernel), "-append", "panic=-1 quiet console=ttyS0", "-serial", "stdio"),
    ]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_KVM_PROBE_TIMEOUT_S,
            check=False,
            env=qemu.full_environment(),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"a probe VM hung for {time.monotonic() - start:.0f} s"
    if "Kernel panic" in done.stdout:
        return None
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return f"a probe VM failed: {last}"
