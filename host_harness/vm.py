"""One run of the VM: device process, QEMU, console, monitor and result channel, in phases.

``running_vm()`` yields a ``Vm`` once the guest has said hello. Whatever ends the block ends all
that it started. While anything is awaited, the processes, the console and the channel are watched
together, so a loss is named at once and never by a deadline that happens to pass.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import machine, payload
from .channel import PROTOCOL, Channel, ChannelBroken, Message
from .children import child, how_it_ended
from .console import Console
from .errors import NoVerdict
from .image import Image
from .monitor import Monitor, MonitorError
from .progress import Progress
from .qemu import Qemu
from .run_folder import tail

# Seconds that each phase may take; generous, for a loaded machine that emulates.
DEADLINES_S = {
    "device up": 20.0,
    "QEMU up": 30.0,
    "kernel": 90.0,
    "guest ready": 90.0,
    "collection": 120.0,
    "test": 120.0,
    "shutdown": 60.0,
}


@dataclass(frozen=True, slots=True)
class VmSettings:
    """What a run boots and with which faults. ``fault`` words go where they act."""

    qemu: Qemu
    accelerator: str
    image: Image
    folder: Path
    seed: int
    device_fault: str | None = None
    guest_fault: str | None = None
    kernel_words: tuple[str, ...] = ()
    pytest_args: tuple[str, ...] = ()


@dataclass(slots=True)
class Vm:
    """A running guest whose agent answers. See ``request`` and ``receive``."""

    settings: VmSettings
    progress: Progress
    device: subprocess.Popen[bytes]
    qemu: subprocess.Popen[bytes]
    console: Console
    monitor: Monitor
    channel: Channel
    hello: Message = field(default_factory=dict)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pidfds: list[int] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to watch processes, console and channel together."""
        for name, process in (("the device process", self.device), ("QEMU", self.qemu)):
            pidfd = os.pidfd_open(process.pid)
            self._pidfds.append(pidfd)
            self._selector.register(pidfd, selectors.EVENT_READ, (name, process))
        self._selector.register(self.console.wakeup, selectors.EVENT_READ, None)
        self._selector.register(self.channel, selectors.EVENT_READ, None)

    def unwatch(self) -> None:
        """Close what ``watch`` opened."""
        self._selector.close()
        for pidfd in self._pidfds:
            os.close(pidfd)

    def send(self, phase: str, message: Message) -> None:
        """Send a message to the guest; NoVerdict when the channel is gone."""
        try:
            self.channel.send(message)
        except OSError as error:
            self._poll(phase, 2.0)
            raise self._lost(phase, f"the result channel broke: {error}") from error

    def receive(self, phase: str, *kinds: str) -> Message:
        """Return the next message, which must be of one of ``kinds``, within the phase's deadline.

        "log" messages are shown and passed over. NoVerdict names the phase and what was lost.
        """
        limit = DEADLINES_S[phase]
        deadline = time.monotonic() + limit
        while True:
            try:
                message = self.channel.take()
            except ChannelBroken as error:
                raise self._lost(phase, f"the result channel is corrupted: {error}") from error
            if message is None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._lost(phase, f"no answer within its deadline of {limit:.0f} s")
                self._poll(phase, remaining)
            elif message["type"] == "log":
                self.progress.note(f"guest: {message.get('text')}")
            elif message["type"] == "error":
                raise self._lost(phase, f"the guest's agent failed:\n{message.get('text')}")
            elif message["type"] in kinds:
                return message
            else:
                raise self._lost(
                    phase, f"the guest sent {message['type']!r} where {kinds} was expected"
                )

    def await_kernel(self) -> None:
        """Wait until the kernel has handed over to init."""
        deadline = time.monotonic() + DEADLINES_S["kernel"]
        while not self.console.up:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._lost("kernel", f"no init within {DEADLINES_S['kernel']:.0f} s")
            self._poll("kernel", remaining)

    def shut_down(self, ran: int) -> None:
        """Let the guest power off; NoVerdict when its count of tests is not ``ran``."""
        self.send("shutdown", {"type": "shutdown"})
        bye = self.receive("shutdown", "bye")
        if bye.get("ran") != ran:
            raise self._lost(
                "shutdown", f"the guest says that it ran {bye.get('ran')} tests, the host saw {ran}"
            )
        try:
            self.qemu.wait(DEADLINES_S["shutdown"])
        except subprocess.TimeoutExpired as error:
            raise self._lost("shutdown", "the guest did not power off") from error
        if self.qemu.returncode != 0:
            raise self._lost("shutdown", f"QEMU ended with {how_it_ended(self.qemu)}")

    def _poll(self, phase: str, timeout_s: float) -> None:
        """Wait for any event; raise NoVerdict for one that means the run is lost."""
        events = self._selector.select(min(timeout_s, 60.0))
        ready = {key.fd for key, _ in events}
        if self.channel.fileno() in ready:
            self.channel.pull()
            if not self.channel.closed:
                return
        if self.console.wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.console.wakeup, 64)
        if self.console.panic:
            raise self._lost(phase, f"the guest's kernel gave up: {self.console.panic}")
        for key, _ in events:
            if key.data is not None:
                name, process = key.data
                process.wait()
                if self._await_panic():
                    raise self._lost(phase, f"the guest's kernel gave up: {self.console.panic}")
                raise self._lost(phase, f"{name} ended with {how_it_ended(process)}")
        if self.channel.closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.qemu.wait(1)
                if self._await_panic():
                    raise self._lost(phase, f"the guest's kernel gave up: {self.console.panic}")
                raise self._lost(phase, f"QEMU ended with {how_it_ended(self.qemu)}")
            raise self._lost(phase, "the result channel was closed")

    def _await_panic(self) -> bool:
        """Give the console's last words half a second to be read."""
        end = time.monotonic() + 0.5
        while self.console.panic is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.console.panic is not None

    def _lost(self, phase: str, message: str) -> NoVerdict:
        folder = self.settings.folder
        parts = [message]
        if self.qemu.poll() is None:
            with contextlib.suppress(MonitorError):
                state = self.monitor.command("query-status")
                parts.append(f"QEMU is still there; the VM is {state.get('status')}")
        for name in ("console.log", "qemu.log", "device.log"):
            if lines := tail(folder / name):
                parts.append(f"the last lines of {name}:")
                parts += [f"  | {line}" for line in lines]
        return NoVerdict(phase, "\n".join(parts), f"look into {folder}")


@contextmanager
def running_vm(settings: VmSettings, progress: Progress) -> Iterator[Vm]:
    """Boot the guest with the device and yield it when its agent has said hello.

    NoVerdict when a process dies, a deadline passes or the guest speaks another protocol.
    """
    folder = settings.folder
    with ExitStack() as stack:
        sockets = Path(tempfile.mkdtemp(prefix="dma-rehearsal-"))
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        exerciser, platform = sockets / "exerciser", sockets / "platform"

        with progress.phase("device"):
            device = _start_device(stack, settings, exerciser, platform)
        initramfs = stack.enter_context(payload.make(settings.image.tree, settings.image.initramfs))
        ends = {name: socket.socketpair() for name in ("console", "results", "qmp")}
        for ours, theirs in ends.values():
            stack.callback(ours.close)
            stack.callback(theirs.close)
        wiring = machine.Wiring(
            console_fd=ends["console"][1].fileno(),
            results_fd=ends["results"][1].fileno(),
            qmp_fd=ends["qmp"][1].fileno(),
            initramfs_fd=initramfs.fileno(),
            exerciser_socket=exerciser,
            platform_socket=platform,
        )
        argv = machine.command(
            settings.qemu,
            settings.accelerator,
            settings.image.kernel,
            folder / "console.log",
            wiring,
            list(settings.kernel_words),
        )
        (folder / "argv").write_text("\n".join(shlex.quote(word) for word in argv) + "\n")
        qemu_log = stack.enter_context((folder / "qemu.log").open("wb"))
        qemu = stack.enter_context(
            child(
                argv,
                pass_fds=[initramfs.fileno(), *(theirs.fileno() for _, theirs in ends.values())],
                stdout=qemu_log,
                stderr=qemu_log,
                environment=settings.qemu.full_environment(),
            )
        )
        for _, theirs in ends.values():
            theirs.close()  # so that QEMU's end is the last one, and its death an end of stream

        console = Console(ends["console"][0])
        stack.callback(console.stop)
        console.start()
        monitor = Monitor(ends["qmp"][0], folder / "qmp.log")
        stack.callback(monitor.close)
        vm = Vm(settings, progress, device, qemu, console, monitor, Channel(ends["results"][0]))
        vm.watch()
        stack.callback(vm.unwatch)

        with progress.phase("qemu"):
            _connect_monitor(vm)
        # QEMU is connected; without the names not even a SIGKILL of the harness leaves a file.
        shutil.rmtree(sockets)
        with progress.phase("boot"):
            vm.await_kernel()
            vm.hello = vm.receive("guest ready", "hello")
        if vm.hello.get("protocol") != PROTOCOL:
            raise NoVerdict(
                "guest ready",
                f"the guest speaks protocol {vm.hello.get('protocol')}, the host {PROTOCOL}",
                "run again from one checkout: guest/ and host_harness/ belong together",
            )
        yield vm


def _connect_monitor(vm: Vm) -> None:
    try:
        vm.monitor.connect(DEADLINES_S["QEMU up"])
    except MonitorError as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            vm.qemu.wait(1)
        state = how_it_ended(vm.qemu)
        raise vm._lost(
            "QEMU up", f"the monitor does not answer ({error}); QEMU: {state}"
        ) from error


def _start_device(
    stack: ExitStack, settings: VmSettings, exerciser: Path, platform: Path
) -> subprocess.Popen[bytes]:
    folder = settings.folder
    argv = [
        *(sys.executable, "-m", "device", "--die-with-stdin"),
        *("--exerciser-socket", str(exerciser), "--platform-socket", str(platform)),
        *("--trace", str(folder / "device-trace.jsonl")),
    ]
    if settings.device_fault:
        argv += ["--fault", settings.device_fault]
    log = stack.enter_context((folder / "device.log").open("wb"))
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(payload.SOURCE)}
    device = stack.enter_context(
        child(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            environment=environment,
        )
    )
    if device.stdout is None:
        raise NoVerdict("device up", "the device process has no standard output")
    limit = DEADLINES_S["device up"]
    with selectors.DefaultSelector() as selector:
        selector.register(device.stdout, selectors.EVENT_READ)
        answered = bool(selector.select(limit))
    line = device.stdout.readline() if answered else b""
    if line.strip() != b"ready":
        if answered:
            with contextlib.suppress(subprocess.TimeoutExpired):
                device.wait(5)
        reason = f"not ready ({how_it_ended(device)})"
        said = "\n".join(f"  | {text}" for text in tail(folder / "device.log"))
        raise NoVerdict("device up", f"the device process is {reason}\n{said}".rstrip())
    return device
