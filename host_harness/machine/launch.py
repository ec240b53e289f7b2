# SPDX-License-Identifier: Apache-2.0
"""Starts a VM: the device process, QEMU, what watches them. Whatever ends the block ends all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dma_rehearsal
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.faults import Place
from dma_rehearsal.host_harness.machine import device_control, exit_reasons, qemu_command
from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.machine.console import Console
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process import janitor
from dma_rehearsal.host_harness.process.children import child, how_it_ended
from dma_rehearsal.host_harness.process.deadlines import wait_limit
from dma_rehearsal.host_harness.process.errors import (
    EnvironmentFailure,
    NoVerdict,
    Status,
    UsageError,
)
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run_folder import LIVE, tail

SHELLS = 4
_SOCKETS_PREFIX = "dma-rehearsal-"
_SOCKET_PATH_SIZE = 107
_SOCKET_NAME_SIZE = len(f"/{_SOCKETS_PREFIX}12345678/exerciser")


@dataclass(frozen=True, slots=True)
class Launch:
    """What a run boots. ``folder`` takes the VM's artefacts, ``initramfs`` is an open file's
    descriptor. ``shells``: with consoles that a shell can be opened on. ``isolated``: what runs in
    the guest places itself on its CPUs, else its scheduler does.
    """

    qemu: Qemu
    accelerator: str
    image: Image
    folder: Path
    options: Options
    initramfs: int
    shells: bool = False
    isolated: bool = False


@contextmanager
def started_vm(launch: Launch, progress: Progress) -> Iterator[Vm]:
    """Start the device process and QEMU with it; yield the guest while it boots.

    NoVerdict when a process dies or a deadline passes.
    """
    folder, options = launch.folder, launch.options
    with ExitStack() as stack:
        sockets = _sockets_folder(stack)
        exerciser, platform = sockets / "exerciser", sockets / "platform"
        shells = [sockets / f"shell{n}" for n in range(SHELLS)] if launch.shells else []
        gdb = sockets / "gdb" if options.gdb else None

        # A second exerciser, which the first reaches by DMA; behind an IOMMU it could not.
        peer = None if options.iommu or options.endpoint else sockets / "peer"

        with progress.phase("device"):
            device = _start_device(stack, launch, exerciser, platform, peer)
        memory = GuestMemory.create()
        stack.callback(memory.close)
        ends = {name: socket.socketpair() for name in ("console", "results", "qmp")}
        for ours, theirs in ends.values():
            stack.callback(ours.close)
            stack.callback(theirs.close)
        wiring = qemu_command.Wiring(
            console_fd=ends["console"][1].fileno(),
            results_fd=ends["results"][1].fileno(),
            qmp_fd=ends["qmp"][1].fileno(),
            initramfs_fd=launch.initramfs,
            memory_fd=memory.fileno(),
            exerciser_socket=exerciser,
            platform_socket=platform,
            peer_socket=peer,
            shell_sockets=tuple(shells),
            gdb_socket=gdb,
        )
        argv = qemu_command.command(
            launch.qemu,
            launch.accelerator,
            launch.image.bzimage if options.boot == "bzimage" else launch.image.kernel,
            folder,
            wiring,
            _kernel_words(options, isolated=launch.isolated),
            iommu=options.iommu,
        )
        (folder / "argv").write_text("\n".join(shlex.quote(word) for word in argv) + "\n")
        qemu_log = stack.enter_context((folder / "qemu.log").open("wb"))
        qemu = stack.enter_context(
            child(
                argv,
                pass_fds=[
                    *(launch.initramfs, memory.fileno()),
                    *(theirs.fileno() for _, theirs in ends.values()),
                ],
                stdout=qemu_log,
                stderr=qemu_log,
                environment=launch.qemu.full_environment(),
            )
        )
        for _, theirs in ends.values():
            theirs.close()  # so that QEMU's end is the last one, and its death an end of stream

        console = Console(ends["console"][0], folder / "console.log")
        stack.callback(console.stop)
        console.start()
        monitor = Monitor(ends["qmp"][0], folder / "qmp.log")
        stack.callback(monitor.close)
        vm = Vm(
            folder,
            launch.accelerator,
            options.deadlines,
            progress,
            device,
            qemu,
            console,
            monitor,
            Channel(ends["results"][0]),
            sockets,
            memory,
        )
        vm.watch()
        stack.callback(vm.unwatch)

        with progress.phase("qemu"):
            _connect_monitor(vm)
        # QEMU is connected; nobody else shall be.
        exerciser.unlink(missing_ok=True)
        platform.unlink(missing_ok=True)
        _announce(stack, launch, shells, gdb)
        if gdb:
            progress.note(f"gdb {shlex.quote(str(launch.image.kernel))} -ex 'target remote {gdb}'")
        yield vm


def _kernel_words(options: Options, *, isolated: bool) -> list[str]:
    words = [qemu_command.ISOLATED_WORD] if isolated else []
    if options.fault and options.fault.parameter:
        words.append(options.fault.parameter)
    if not options.endpoint:
        words += device_words(options.profile)
    return [*words, *options.append]


def device_words(profile: Profile) -> list[str]:
    """Return the words that announce the device to the guest."""
    return [
        f"rehearsal.device={profile.vendor:04x}:{profile.device:04x}",
        f"rehearsal.vectors={profile.vectors}",
        f"rehearsal.profile={profile.crc32:#010x}",
        f"rehearsal.coherent={int(profile.coherent)}",
        *([f"rehearsal.limits={','.join(profile.limits)}"] if profile.limits else []),
    ]


def _sockets_folder(stack: ExitStack) -> Path:
    """Make a private folder whose path leaves room for a socket's name (unix(7): 107 bytes)."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for base in filter(None, places):
        usable = os.access(base, os.W_OK | os.X_OK)
        if usable and len(os.fsencode(base)) + _SOCKET_NAME_SIZE <= _SOCKET_PATH_SIZE:
            folder = Path(base, _SOCKETS_PREFIX + secrets.token_hex(4))
            stack.enter_context(janitor.guard_path(folder))
            folder.mkdir(0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder
    raise EnvironmentFailure(
        f"there is no folder for sockets: {', '.join(filter(None, places))} cannot be written, "
        "or their names are too long",
        "set TMPDIR to a folder with a short name",
    )


def _announce(stack: ExitStack, launch: Launch, shells: list[Path], gdb: Path | None) -> None:
    """Write what attaches to this VM need, for as long as it runs."""
    if not shells and not gdb:
        return
    live = launch.folder / LIVE
    stack.enter_context(janitor.guard_path(live))
    facts = {
        "pid": os.getpid(),
        "shells": [str(path) for path in shells],
        "gdb": str(gdb) if gdb else None,
    }
    live.write_text(json.dumps(facts) + "\n")
    stack.callback(live.unlink, missing_ok=True)


def _connect_monitor(vm: Vm) -> None:
    try:
        vm.monitor.connect(vm.deadlines["QEMU up"])
    except MonitorError as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            vm.qemu.wait(1)
        state = exit_reasons.of_both(vm.device, vm.qemu, vm.folder) or "QEMU: still running"
        raise vm.lost("QEMU up", f"the monitor does not answer ({error}); {state}") from error


def _endpoint_refused(endpoint: str, log: Path) -> UsageError:
    """Return the error of an endpoint that cannot be served, by the words of the device process."""
    *said, last = tail(log, 4) or [""]
    _, is_hint, hint = last.partition("next: ")
    if not is_hint:
        said.append(last)
        hint = f"mend {endpoint.partition(':')[2]}: docs/tutorial.md says what an endpoint can have"
    return UsageError(f"ENDPOINT={endpoint}: {' '.join(said)}", hint)


def _start_device(
    stack: ExitStack, launch: Launch, exerciser: Path, platform: Path, peer: Path | None
) -> subprocess.Popen[bytes]:
    folder, fault = launch.folder, launch.options.fault
    argv = [
        # -P: a device.py in the current folder is somebody else's.
        *(sys.executable, "-P", "-m", "dma_rehearsal.device", "--die-with-stdin"),
        *("--exerciser-socket", str(exerciser), "--platform-socket", str(platform)),
        *("--control-socket", str(platform.with_name(device_control.SOCKET))),
        *(("--peer-socket", str(peer)) if peer else ()),
        *("--trace", str(folder / "device-trace.jsonl")),
    ]
    if launch.options.gdb:
        argv += ["--patience", "0"]  # whoever debugs the guest may debug the device, too
    if fault and fault.place is Place.DEVICE:
        argv += ["--fault", fault.name]
    for name in ("endpoint", "profile"):
        if name in launch.options.given:
            argv += [f"--{name}", launch.options.given[name]]
    if "coherent" in launch.options.given:
        argv += ["--coherent", "yes" if launch.options.profile.coherent else "no"]
    if launch.options.iommu:
        argv += ["--iommu"]
    # An endpoint of somebody else's is found as Python finds modules: here, or on PYTHONPATH.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # dma_rehearsal comes last: a checkout's folder also has a `device`, which is not the user's.
    own = str(Path(dma_rehearsal.__file__).parents[1])
    python_path = [str(Path.cwd()), *filter(None, given), own]
    log = stack.enter_context((folder / "device.log").open("wb"))
    device = stack.enter_context(
        child(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
        )
    )
    if device.stdout is None:
        raise NoVerdict("device up", "the device process has no standard output")
    limit = launch.options.deadlines["device up"]
    with selectors.DefaultSelector() as selector:
        selector.register(device.stdout, selectors.EVENT_READ)
        answered = bool(selector.select(wait_limit(limit)))
    line = device.stdout.readline() if answered else b""
    if line.strip() != b"ready":
        if answered:
            with contextlib.suppress(subprocess.TimeoutExpired):
                device.wait(5)
            if device.returncode == Status.USAGE and launch.options.endpoint:
                raise _endpoint_refused(launch.options.endpoint, folder / "device.log")
            reason = f"is not ready ({how_it_ended(device)})"
        else:
            reason = f"is not ready within its deadline of {limit:g} s"
        said = "\n".join(f"  | {text}" for text in tail(folder / "device.log"))
        raise NoVerdict("device up", f"the device process {reason}\n{said}".rstrip())
    return device
