# SPDX-License-Identifier: Apache-2.0
"""The saved machine states of guests: which runs may use them, and the keys that find them.

There are two kinds. In a **booted** state the agent is parked: pytest is imported, and of this
project the files alone that the boot needs. In a **collected** state a session's tests are
collected. A run is the same whether its guest booted or was restored, so whatever can make a
difference is either in a key, or the guest's agent is told it again at each start: the seed, the
clock, entropy, the parameters of the device.

==================================  ==============================================================
in the key of a booted state        the image, the packages that PACKAGES adds, the files that the
                                    boot reads, the kernel's command line (the IOMMU, isolation),
                                    QEMU and its command line, the accelerator, the host and its CPU
in the key of a collected state     all of these, the payload (guest/, the user's tests, the kernel
                                    modules under test, those of KERNEL_MODULES), the request to
                                    collect (arguments, placement, a test's deadline), the
                                    parameters (profile, coherence); of a user's tests, which may
                                    read registers then, the device's code and the endpoint's
told again at each start            seed, clock, entropy, parameters, shells
the host's alone                    order, selection, deadlines of other phases, number of VMs; for
                                    this project's tests the device's code and faults
in no saved state                   a run with a fault, and with a fault that the collection may see
                                    it starts from a booted state at most
==================================  ==============================================================
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.environment import build_cache, endpoint_files, payload
from dma_rehearsal.host_harness.environment.build_cache import Kind
from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.payload import SOURCE, Delta, GuestTests, Payload
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.environment.user_modules import NO_MODULES, UserModules
from dma_rehearsal.host_harness.machine import (
    kernel_cmdline,
    plugged_functions,
    qemu_command,
    saved_state,
)
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.session.agent_client import Request

_FORMAT = 1  # of what is in a state beside QEMU's own
_CPUINFO = Path("/proc/cpuinfo")
_MACHINE_ID = Path("/etc/machine-id")
# Linux, arch/x86/kernel/cpu/proc.c. The guest's TSC is the host's under TCG, too.
_MODEL = ("vendor_id", "cpu family", "model", "model name", "stepping")
_KVM = ("flags", "microcode")
_DATA = (".bin", ".cfg", ".csv", ".dat", ".hex", ".ini", ".json", ".toml", ".yaml", ".yml")
_FILES_SIZE = 4 << 20  # bytes of files in one message
_FILE_MAX = 11 << 20  # bytes of one file, which is in base64 in a frame of 16 MiB


class StartKind(Enum):
    """The ways in which a guest starts; ``words`` are for people."""

    COLD = "cold"
    BOOTED = "booted"
    COLLECTED = "collected"

    @property
    def words(self) -> str:
        """The words of the last line."""
        return _WORDS[self]


_WORDS = {
    StartKind.COLD: "booted cold",
    StartKind.BOOTED: "restored: booted",
    StartKind.COLLECTED: "restored: tests collected",
}


@dataclass(frozen=True, slots=True)
class Start:
    """The way in which a run's guests started, and why not from a state that would be faster."""

    kind: StartKind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The start of a run's guests, and what is saved of them on the way.

    ``state`` is the folder of the saved state to restore, ``facts`` are what was saved with it, and
    ``files`` the messages that bring it up to date. ``booted`` and ``collected`` are the keys of
    the states to save, None where there is none. ``request`` is the collection that will follow,
    None where none does. ``payload`` is the run's; None where the state has the same.
    """

    start: Start
    seed: int
    request: Request | None = None
    payload: Payload | None = None
    state: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Message] = ()
    booted: Mapping[str, Any] | None = None
    collected: Mapping[str, Any] | None = None

    @property
    def collects_detached(self) -> bool:
        """Whether the tests are collected before the functions are attached, to save a scan.

        This project's own tests do not look at devices while they are collected.
        """
        return bool(self.collected and self.request and self.request.tests.is_own)


class TooLarge(Exception):
    """A file is too large for a message to a guest."""


def plan(
    options: Options,
    found: Qemu,
    image: Image,
    accelerator: str,
    tests: GuestTests,
    request: Request | None,
    *,
    isolated: bool,
    shells: bool,
    modules: UserModules = NO_MODULES,
    functions: Sequence[PluggedFunction] = (),
) -> Plan:
    """Return how the guests of a run start.

    ``request`` is the collection that will follow; ``modules`` are the kernel modules under test,
    ``functions`` those of the endpoints (default: the usual ones of these options).
    Errors as `payload.make`'s.
    """
    if reason := why_cold(options):
        return cold(options, image, tests, request, reason, modules)
    booted = booted_key(found, image, accelerator, options, functions, isolated=isolated)
    collected = None
    if request and options.state != run_options.BOOTED and not _fault_may_be_seen(options, request):
        digest = payload.digest(image.tree, tests, modules.files())
        collected = collected_key(booted, digest, request, options)
        if usable := _usable(build_cache.COLLECTED, collected):
            state, facts = usable
            start = Start(StartKind.COLLECTED)
            return Plan(start, options.seed, request, state=state, facts=facts, collected=collected)
    made = payload.make(image.tree, tests, modules.files())
    if made.boot_files_digest() != booted["boot files"]:
        why = "files were edited while the run began"
        return cold(options, image, tests, request, why, modules)
    if collected is not None:
        collected["payload"] = made.digest  # sources may have been edited since they were digested
    # A device with a fault leaves its marks in a kernel that boots, and a shell runs in its state.
    saved = None if options.fault or shells else collected
    if usable := _usable(build_cache.BOOTED, booted):
        state, facts = usable
        try:
            files = list(file_messages(payload.delta(facts["files"], made)))
        except TooLarge as error:
            return cold(options, image, tests, request, str(error), modules)
        reason = "no state has these tests collected" if request else ""
        start = Start(StartKind.BOOTED, reason)
        return Plan(start, options.seed, request, made, state, facts, files=files, collected=saved)
    return Plan(
        Start(StartKind.COLD, "no saved state fits"),
        options.seed,
        request,
        made,
        booted=None if options.fault else booted,
        collected=saved,
    )


def _fault_may_be_seen(options: Options, request: Request) -> bool:
    """Whether a collection differs with the fault: one in the guest, or seen by a user's tests.

    Those may read a device's registers while they are collected.
    """
    return bool(request.fault or (options.fault and not request.tests.is_own))


def cold(
    options: Options,
    image: Image,
    tests: GuestTests,
    request: Request | None,
    reason: str,
    modules: UserModules = NO_MODULES,
) -> Plan:
    """Return the plan of guests that boot and are not saved, for this ``reason``."""
    made = payload.make(image.tree, tests, modules.files())
    return Plan(Start(StartKind.COLD, reason), options.seed, request, made)


def give_up(
    failed: Plan,
    options: Options,
    image: Image,
    tests: GuestTests,
    reason: str,
    modules: UserModules = NO_MODULES,
) -> Plan:
    """Throw away the saved state of a plan that ``failed``; return one that boots instead."""
    if failed.state:
        build_cache.discard(failed.state)
    words = f"a saved state ({failed.start.kind.value}) was of no use: {reason}"
    return cold(options, image, tests, failed.request, words, modules)


def _usable(kind: Kind, key: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Return a state's folder and facts, None without one; a damaged one is thrown away."""
    state = build_cache.use(kind, key)
    if state is None:
        return None
    try:
        return state, saved_state.facts(state)
    except StateUnusable:
        build_cache.discard(state)
        return None


def file_messages(delta: Delta) -> Iterator[Message]:
    """Return the messages that bring a ``delta`` to a parked guest, none where nothing changed.

    TooLarge for a file that no message holds.
    """
    removed = list(delta.remove)
    files: list[list[object]] = []
    size = 0
    for path, mode, data in delta.files:
        if len(data) > _FILE_MAX:
            raise TooLarge(f"{path} has {len(data)} bytes, and a message holds {_FILE_MAX}")
        if files and size + len(data) > _FILES_SIZE:
            yield {"type": "files", "remove": removed, "files": files}
            removed, files, size = [], [], 0
        files.append([path, mode, base64.b64encode(data).decode()])
        size += len(data)
    if removed or files:
        yield {"type": "files", "remove": removed, "files": files}


def why_cold(options: Options) -> str:
    """Return why a run with these options must boot; empty when it may start from a saved state."""
    fault = options.fault
    foreign = [
        word for word in options.append if word not in kernel_cmdline.agent_parameters(options)
    ]
    if options.state == run_options.NO:
        return "STATE=no"
    if options.boot != "pvh":
        return f"BOOT={options.boot} is about the boot"
    if foreign:
        return f"APPEND={foreign[0]} is for the kernel's boot"
    if options.gdb:
        return "GDB=1 is for a debugger that may look at the boot"
    if fault and fault.parameter:
        return f"FAULT={fault.name} is a parameter of the kernel's boot"
    return ""


def booted_key(
    found: Qemu,
    image: Image,
    accelerator: str,
    options: Options,
    functions: Sequence[PluggedFunction] = (),
    *,
    isolated: bool,
) -> dict[str, Any]:
    """Return what a booted state depends on, as a JSON value."""
    words = kernel_cmdline.boot_parameters(options, isolated=isolated)
    cmdline = kernel_cmdline.command_line(words)
    argv = qemu_command.command(
        found,
        accelerator,
        Path("kernel"),
        Path("run"),
        _wiring(functions or plugged_functions.usual(options, Path())),
        cmdline,
        iommu=options.iommu,
        hotplug=options.hotplug,
    )
    return {
        "format": _FORMAT,
        "image": image.kernel.parent.name,
        **({"packages": image.packages.digest} if image.packages else {}),
        "boot files": payload.boot_files_digest(),
        "argv": argv[len(found.command) :],
        "qemu": qemu_identity(found),
        "host": host_identity(accelerator),
    }


def collected_key(
    booted: dict[str, Any], payload_digest: str, request: Request, options: Options
) -> dict[str, Any]:
    """Return what a collected state depends on, as a JSON value: a booted one's key, and more."""
    return {
        "booted": booted,
        "payload": payload_digest,
        "request": request.settings(),
        "parameters": kernel_cmdline.agent_parameters(options),
        "endpoint": options.endpoint,
        "device": None if request.tests.is_own else device_digest(options.endpoint),
    }


def device_digest(endpoint: str | None) -> str:
    """Return a digest of the code of the devices that a run has, and of the data beside it.

    ``endpoint`` is a user's MODULE:CLASS, or several: what they import belongs to them, and the
    files of data in the same folders.
    """
    found = {"device": build_cache.digest_of_files(SOURCE / "device")}
    if endpoint:
        code = endpoint_files.files(endpoint, endpoint_files.search_path())
        data = {
            path
            for folder in {path.parent for path in code}
            for path in folder.iterdir()
            if path.suffix in _DATA
        }
        for path in sorted(code | data):
            with contextlib.suppress(OSError):  # it went meanwhile, or is not ours to read
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return build_cache.digest_of(found)


def _wiring(functions: Sequence[PluggedFunction]) -> qemu_command.Wiring:
    """Return what is in place of a run's descriptors and paths in the key."""
    return qemu_command.Wiring(
        console_fd=0,
        results_fd=0,
        qmp_fd=0,
        initramfs_fd=0,
        memory_fd=0,
        functions=plugged_functions.shape(functions),
        platform_socket=Path("platform"),
    )


def qemu_identity(found: Qemu) -> dict[str, Any]:
    """Return what tells one QEMU from another: its version, its files, firmware and modules."""
    words = [Path(word) for word in found.command]
    folders = [words[at + 1] for at, word in enumerate(found.command) if word == "-L"]
    for program in words[:1] if not folders else ():
        share = Path(shutil.which(program) or program).resolve().parent.parent / "share"
        folders += [share / "qemu", share / "seabios"]  # where distributions have its firmware
    folders += [Path(each) for each in found.environment.values()]
    files = [_identity(word) for word in words if word.is_file()]
    for folder in folders:
        with contextlib.suppress(OSError):
            files += [_identity(path) for path in sorted(folder.iterdir()) if path.is_file()]
    return {"version": found.version, "files": build_cache.digest_of(files)}


def _identity(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def host_identity(
    accelerator: str, cpuinfo: Path = _CPUINFO, machine_id: Path = _MACHINE_ID
) -> dict[str, str]:
    """Return what a guest's CPUs take from this host: its CPU's model, and which host it is.

    CPUs of one model may count their TSC at different rates, and the guest has measured this one's.
    With KVM also the CPU's flags and microcode, and the release of the host's kernel.
    """
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):  # machine-id(5): not to be shown as it is
        found["machine"] = build_cache.digest_of(["dma-rehearsal", machine_id.read_text().strip()])
    for line in cpuinfo.read_text().splitlines():
        name, _, value = map(str.strip, line.partition(":"))
        if name in _MODEL or (accelerator == "kvm" and name in _KVM):
            found.setdefault(name, value)
    if accelerator == "kvm":
        found["kernel"] = platform.release()
    return found
