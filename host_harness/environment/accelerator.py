# SPDX-License-Identifier: Apache-2.0
"""The accelerator of a VM: KVM where a probe VM shows that it works, else TCG."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.probe_notes import ProbeNote
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.process import children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError

_PROBE_TIMEOUT_S = 8


def choose(qemu: Qemu, kernel: Path, wanted: str | None) -> tuple[str, str]:
    """Return the accelerator ("kvm" or "tcg") and one line that says why.

    ``wanted`` is None, "kvm" or "tcg". An open /dev/kvm proves nothing, so a tiny VM boots
    ``kernel`` under a time limit. UsageError for another word, EnvironmentFailure when "kvm" was
    asked for and does not work.
    """
    if wanted not in (None, "", "kvm", "tcg"):
        raise UsageError(f"ACCEL={wanted} is not an accelerator", "use ACCEL=kvm or ACCEL=tcg")
    if wanted == "tcg":
        return "tcg", "tcg, as asked"
    # A user who insists gets a new probe: one that timed out on a busy machine was remembered.
    probe = _why_no_kvm if wanted == "kvm" else _remembered_why_no_kvm
    reason = probe(qemu, kernel)
    if reason is None:
        return "kvm", "kvm (a probe VM booted a kernel)"
    if wanted == "kvm":
        raise EnvironmentFailure(
            f"ACCEL=kvm, but KVM does not work here: {reason}", "run without ACCEL to use tcg"
        )
    return "tcg", f"tcg (no KVM: {reason})"


def _remembered_why_no_kvm(qemu: Qemu, kernel: Path) -> str | None:
    """Probe KVM, but a probe that failed only once for each boot of this machine."""
    inputs = {"qemu": qemu.command, "version": qemu.version}
    note = ProbeNote(build_cache.NOTES_FOLDER, inputs)
    if known := note.read():
        return known
    reason = _why_no_kvm(qemu, kernel)
    if reason is not None:
        note.write(reason)
    return reason


def why_kvm_cannot_be_opened() -> str | None:
    """Return None when /dev/kvm opens (which does not prove that it works), else why not."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def _why_no_kvm(qemu: Qemu, kernel: Path) -> str | None:
    """Return None when KVM boots a kernel to its first panic, else why not."""
    if reason := why_kvm_cannot_be_opened():
        return reason
    # Without an initramfs the kernel panics, and panic=-1 with -no-reboot ends QEMU at once.
    command = [
        *qemu.command,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256M"),
        *("-kernel", str(kernel), "-append", "panic=-1 quiet console=ttyS0", "-serial", "stdio"),
    ]
    start = time.monotonic()
    try:
        done = children.run(
            command,
            timeout_s=_PROBE_TIMEOUT_S,
            environment=qemu.full_environment(),
        )
    except OSError as error:
        return f"a probe VM does not start: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return f"a probe VM hung for {time.monotonic() - start:.0f} s"
    if "Kernel panic" in done.stdout:
        return None
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return f"a probe VM failed: {last}"
