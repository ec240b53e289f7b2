# SPDX-License-Identifier: Apache-2.0
"""Starts a VM: the device process, QEMU, and the connections. The end of the block ends all."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.machine import (
    device_process,
    endpoint_slots,
    exit_reasons,
    kernel_cmdline,
    qemu_command,
    saved_state,
)
from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.machine.console import Console
from dma_rehearsal.host_harness.machine.device_process import DeviceProcess
from dma_rehearsal.host_harness.machine.endpoint_slots import Devices
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process import janitor
from dma_rehearsal.host_harness.process.children import child
from dma_rehearsal.host_harness.process.errors import (
    NoVerdict,
)
from dma_rehearsal.host_harness.process.progress import Progress

# The facts for an attached shell or gdb; the file exists as long as the VM runs.
LIVE = "vm.json"


@dataclass(frozen=True, slots=True)
class Launch:
    """The inputs of one VM. ``folder`` takes its artefacts, ``initramfs`` is an open file's
    descriptor. ``shells``: with consoles that a shell can be opened on. ``isolated``: programs in
    the guest choose their CPUs themselves, else its scheduler does. ``state`` is the folder of a
    saved state (`saved_state`), from which the guest is restored; it then needs no initramfs.
    ``device`` is its device process, where one has been started; it must outlive the VM.
    """

    qemu: Qemu
    accelerator: str
    image: Image
    folder: Path
    options: Options
    initramfs: int | None
    shells: bool = False
    isolated: bool = False
    state: Path | None = None
    device: DeviceProcess | None = None

    def __post_init__(self) -> None:
        if (self.initramfs is None) == (self.state is None):
            raise ValueError("a guest starts from an initramfs, or from a saved state")


@contextmanager
def started_vm(launch: Launch, progress: Progress) -> Iterator[Vm]:
    """Start the device process and QEMU with it; yield the guest while it boots, or restored.

    NoVerdict when a process dies or a deadline passes; StateUnusable when the guest cannot be
    restored from ``launch.state``.
    """
    folder, options = launch.folder, launch.options
    with ExitStack() as stack:
        started = launch.device or device_process.start(stack, options, folder)
        sockets = started.sockets
        shells = (
            [sockets / f"shell{n}" for n in range(qemu_command.SHELLS)] if launch.shells else []
        )
        gdb = sockets / "gdb" if options.gdb else None
        memory = GuestMemory.create()
        stack.callback(memory.close)
        restoring = None
        if launch.state:
            restoring = stack.enter_context(saved_state.restoring(launch.state, memory))
        with progress.phase("device"):
            device = started.await_ready()
            functions = started.functions()
        if options.hotplug:
            endpoint_slots.check(functions)
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
            functions=functions,
            platform_socket=started.platform,
            shell_sockets=tuple(shells),
            gdb_socket=gdb,
        )
        # A driver under test is rehearsed with an eager device, or a held one.
        posted_writes = not (options.modules or options.driver)
        argv = qemu_command.command(
            launch.qemu,
            launch.accelerator,
            launch.image.bzimage if options.boot == "bzimage" else launch.image.kernel,
            folder,
            wiring,
            kernel_cmdline.command_line(
                kernel_cmdline.boot_parameters(options, isolated=launch.isolated)
            ),
            iommu=options.iommu,
            posted_writes=posted_writes,
            hotplug=options.hotplug,
        )
        (folder / "argv").write_text("\n".join(shlex.quote(word) for word in argv) + "\n")
        qemu_log = stack.enter_context((folder / "qemu.log").open("wb"))
        qemu = stack.enter_context(
            child(
                argv,
                pass_fds=[
                    *((launch.initramfs,) if launch.initramfs is not None else ()),
                    memory.fileno(),
                    *(theirs.fileno() for _, theirs in ends.values()),
                ],
                stdout=qemu_log,
                stderr=qemu_log,
                environment=launch.qemu.full_environment(),
            )
        )
        for _, theirs in ends.values():
            theirs.close()  # QEMU holds the only copy, so its death ends the stream

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
            kernel_cmdline.agent_parameters(options),
            len(shells),
            _slots(functions, posted_writes=posted_writes) if options.hotplug else {},
        )
        vm.watch()
        stack.callback(vm.unwatch)

        with progress.phase("qemu"):
            try:
                _connect_monitor(vm)
            except NoVerdict as error:
                if restoring is None or device.poll() is not None:
                    raise  # the device process is not restored: its loss would come again
                raise StateUnusable(str(error)) from error.__cause__  # no guest was lost
        if restoring:
            with progress.phase("restore"):
                restoring.finish(vm)
        # QEMU is connected; nothing else may connect. It comes again to a device that is unplugged.
        endpoints = () if options.hotplug else functions
        for path in (*(each.socket for each in endpoints), started.platform):
            path.unlink(missing_ok=True)
        _announce(stack, launch, shells, gdb)
        if gdb:
            progress.note(f"gdb {shlex.quote(str(launch.image.kernel))} -ex 'target remote {gdb}'")
        yield vm


def _slots(functions: Sequence[PluggedFunction], *, posted_writes: bool) -> Devices:
    devices = qemu_command.endpoint_devices(functions, posted_writes=posted_writes, hotplug=True)
    return endpoint_slots.by_device(functions, devices)


def _announce(stack: ExitStack, launch: Launch, shells: list[Path], gdb: Path | None) -> None:
    """Write the facts that attached shells and gdb need, for as long as the VM runs."""
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
