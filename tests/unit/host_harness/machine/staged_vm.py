# SPDX-License-Identifier: Apache-2.0
"""A VM made of processes and sockets of this machine, and the other ends of what it watches."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.machine.console import Console
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process import deadlines
from dma_rehearsal.host_harness.process.progress import Progress


class NoMonitor:
    """A monitor that does not answer. ``panicked`` tells panics all the same."""

    def __init__(self) -> None:
        self.panicked = os.eventfd(0, os.EFD_NONBLOCK)

    def command(self, name: str, **_: object) -> Any:
        raise MonitorError(name)


@dataclass
class Stage:
    """The VM, and the other ends of what it watches. ``port`` is the one of ``guest``."""

    vm: Vm
    guest: Channel
    console: socket.socket
    port: socket.socket


def lives(status: int = 0) -> subprocess.Popen[bytes]:
    """Start a process that lives until its input ends, and then has this status."""
    script = f"import sys; sys.stdin.read(); sys.exit({status})"
    return subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.close()


@contextlib.contextmanager
def staged(tmp_path: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for ends in pairs:
            for each in ends:
                stack.enter_context(each)
        device, qemu = lives(1), lives()
        for process in (device, qemu):
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(end, process)
        console = Console(pairs[0][0], tmp_path / "console.log")
        console.start()
        stack.callback(console.stop)
        (tmp_path / "console.log").write_text("".join(f"line {n}\n" for n in range(30)))
        monitor: Any = NoMonitor()
        stack.callback(os.close, monitor.panicked)
        memory = GuestMemory.create()
        stack.callback(memory.close)
        vm = Vm(
            tmp_path,
            "tcg",
            dict(deadlines.DEFAULTS_S) | {"test": 0.2, "kernel": 0.2},
            Progress(quiet=True),
            device,
            qemu,
            console,
            monitor,
            Channel(pairs[1][0]),
            tmp_path,
            memory,
        )
        vm.watch()
        stack.callback(vm.unwatch)
        yield Stage(vm, Channel(pairs[1][1]), pairs[0][1], pairs[1][1])
