# SPDX-License-Identifier: Apache-2.0
"""A running VM: device process, QEMU, console, monitor and result channel, watched together.

Every wait watches all of them, and those of the run's other VMs, so a loss is reported at once and
not by a deadline that happens to pass. ``launch`` starts one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dma_rehearsal.device.layout.result_frames import PROTOCOL, FrameError, Message
from dma_rehearsal.host_harness.machine import device_process, exit_reasons
from dma_rehearsal.host_harness.machine.channel import Channel, cleaned
from dma_rehearsal.host_harness.machine.console import Console
from dma_rehearsal.host_harness.machine.endpoint_slots import Devices
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.process import children
from dma_rehearsal.host_harness.process.deadlines import wait_limit
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.process.plain_text import tail
from dma_rehearsal.host_harness.process.progress import Progress

_LOGS = ("console.log", "qemu.log", "device.log")
_WAIT_MAX_S = 60.0
_WORDS_MAX_S = 0.5  # for console output that is not read yet
_LATE_S = 3.0


@dataclass(slots=True)
class Vm:
    """A guest, from the start of QEMU on; ``session.guest_start`` has its agent serve.

    ``deadlines`` are in seconds by phase; ``sockets`` is a private folder that lives as long as the
    VM; ``subject`` is the running test, for the message of a loss. ``unread`` says that `take` may
    have a message without another `poll`. ``parameters`` and ``shells`` go to the agent: the words
    of the run, and the number of consoles with a login shell. ``slots`` are those of endpoints that
    can be unplugged (`endpoint_slots`).
    """

    folder: Path
    accelerator: str
    deadlines: Mapping[str, float]
    progress: Progress
    device: subprocess.Popen[bytes]
    qemu: subprocess.Popen[bytes]
    console: Console
    monitor: Monitor
    channel: Channel
    sockets: Path
    memory: GuestMemory
    parameters: Sequence[str] = ()
    shells: int = 0
    slots: Devices = field(default_factory=dict)
    hello: Message = field(default_factory=dict)
    subject: str = ""
    unread: bool = False
    _beside: list[Vm] = field(default_factory=list)
    _all: selectors.BaseSelector | None = None
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pidfds: list[int] = field(default_factory=list)
    _qemu_log_size: int = 0
    _panic_announced: bool = False
    _told_to_end: bool = False

    def watch(self) -> None:
        """Begin to watch processes, console and channel together."""
        for process in (self.device, self.qemu):
            pidfd = os.pidfd_open(process.pid)
            self._pidfds.append(pidfd)
            self._selector.register(pidfd, selectors.EVENT_READ, process)
        self._selector.register(self.console.wakeup, selectors.EVENT_READ, None)
        self._selector.register(self.channel, selectors.EVENT_READ, None)
        self._selector.register(self.monitor.panicked, selectors.EVENT_READ, None)

    def watch_too(self, others: Iterable[Vm]) -> None:
        """From now on look at these VMs, too, whenever this one waits for something."""
        self._beside += others
        self._all = selectors.DefaultSelector()
        for vm in (self, *self._beside):
            self._all.register(vm, selectors.EVENT_READ, vm)

    def unwatch(self) -> None:
        """Close what ``watch`` and ``watch_too`` opened."""
        if self._all:
            self._all.close()
        self._selector.close()
        for pidfd in self._pidfds:
            os.close(pidfd)

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``poll`` has something to look at."""
        return self._selector.fileno()  # type: ignore[attr-defined,no-any-return]  # epoll's

    def send(self, phase: str, message: Message) -> None:
        """Send a message to the guest; NoVerdict when the channel is gone."""
        try:
            self.channel.send(message)
        except OSError as error:
            self.poll(phase, 2.0)
            raise self.lost(phase, f"the result channel broke: {error}") from error

    def receive(self, phase: str, *kinds: str, limit_s: float | None = None) -> Message:
        """Return the next message, which must be of one of ``kinds``, within the phase's deadline.

        ``limit_s``, seconds from now, takes the deadline's place. NoVerdict names the phase and
        what was lost.
        """
        limit = self.deadlines[phase] if limit_s is None else limit_s
        deadline = time.monotonic() + limit
        while (message := self.take(phase, *kinds)) is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                whole = self.deadlines.get(phase, limit)
                raise self.lost(phase, f"no answer within its deadline of {whole:g} s")
            self.poll(phase, remaining)
        return message

    def take(self, phase: str, *kinds: str) -> Message | None:
        """Return the next message, which must be of one of ``kinds``, if `poll` has brought one.

        NoVerdict as for `receive`.
        """
        try:
            message = self.channel.take()
        except FrameError as error:
            raise self.lost(phase, f"the result channel is corrupted: {error}") from error
        if message is None:
            self.unread = False
        elif message["type"] != "executed":
            message = cleaned(message)
        if message is None or message["type"] in kinds:
            return message
        if message["type"] == "error":
            raise self.lost(phase, f"the guest's agent failed:\n{message.get('text')}")
        raise self.lost(phase, f"the guest sent {message['type']!r} where {kinds} was expected")

    @contextlib.contextmanager
    def panic_announced(self) -> Iterator[None]:
        """In the block, a panic of the guest stops the machine and does not end the run."""
        self._panic_announced = True
        try:
            yield
        finally:
            self._panic_announced = False

    def await_panic(self, phase: str, limit_s: float) -> None:
        """Wait until the panic that was announced has stopped the machine.

        NoVerdict when that takes more than ``limit_s`` seconds, or the VM is lost.
        """
        deadline = time.monotonic() + limit_s
        reported = False
        while True:
            if not reported:
                with contextlib.suppress(BlockingIOError):
                    reported = os.eventfd_read(self.monitor.panicked) > 0
            # The event is sent when the CPU begins to stop.
            if reported and self.monitor.command("query-status")["status"] == "guest-panicked":
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self.lost(phase, f"the guest did not stop within {limit_s:g} s")
            self.poll(phase, min(remaining, 0.01) if reported else remaining)

    def await_parked(self) -> None:
        """Wait until the agent of a guest that boots is parked.

        NoVerdict when a process dies, a deadline passes or the guest speaks another protocol.
        """
        self.await_kernel()
        self._check_protocol(self.receive("guest ready", "parked"))

    def resume(self, *, attach: bool, **settings: object) -> Message:
        """Tell a guest that is parked or detached what it is for; return its "resumed".

        ``attach``: its PCI functions are to be found again. ``settings``: more of the message, see
        ``guest/agent/main.py``. NoVerdict when the VM is lost.
        """
        words = {"parameters": list(self.parameters), "shells": self.shells, "attach": attach}
        self.send("guest ready", {"type": "resume", **words, **settings})
        return self.receive("guest ready", "resumed")

    def go(self) -> None:
        """Have a parked guest begin to serve, and keep its hello; NoVerdict as `await_parked`."""
        self.send("guest ready", {"type": "go"})
        self.await_hello()

    def await_hello(self) -> None:
        """Wait for the hello of an agent that was told to go, and keep it.

        NoVerdict as `await_parked`.
        """
        self.hello = self.receive("guest ready", "hello")
        self._check_protocol(self.hello)

    def detach(self) -> str:
        """Have the guest give up the device process's functions; return why it refuses, else "".

        NoVerdict when the VM is lost.
        """
        self.send("guest ready", {"type": "detach"})
        return str(self.receive("guest ready", "detached").get("refused", ""))

    def _check_protocol(self, message: Message) -> None:
        if message.get("protocol") != PROTOCOL:
            raise NoVerdict(
                "guest ready",
                f"the guest speaks protocol {message.get('protocol')}, the host {PROTOCOL}",
                "run again from one checkout: guest/ and host_harness/ belong together",
            )

    def await_kernel(self) -> None:
        """Wait until the kernel has handed over to init."""
        limit = self.deadlines["kernel"]
        deadline = time.monotonic() + limit
        while not self.console.up:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self.lost("kernel", f"no init within its deadline of {limit:g} s")
            self.poll("kernel", remaining)

    def execute(self, argv: Sequence[str], *, timeout_s: float, input_text: str = "") -> Message:
        """Run a program in the guest as root; return "status", "stdout", "stderr" and "error".

        It is killed after ``timeout_s`` seconds, and "error" says so. NoVerdict when the VM is
        lost.
        """
        request = {"argv": list(argv), "timeout": timeout_s, "input": input_text}
        self.send("guest command", {"type": "execute", **request})
        return self.receive("guest command", "executed", limit_s=timeout_s + 30)

    def store(self, path: str, data: str | None, mode: int = 0o644) -> None:
        """Put a file into the guest: ``data`` in base64, None to remove it; NoVerdict when lost."""
        self.send("guest file", {"type": "file", "path": path, "data": data, "mode": mode})
        reply = self.receive("guest file", "stored", limit_s=60)
        if "error" in reply:
            self.progress.note(f"guest: {reply['error']}")

    def set_fault(self, name: str | None) -> None:
        """Set a fault of the device in place of any other, None to clear it; see `device_process`.

        Between tests alone. UsageError for one that is not the device's; NoVerdict when it is lost.
        """
        device_process.set_fault(self.sockets / device_process.SOCKET, name)

    def set_test(self, nodeid: str | None) -> None:
        """Have the device's trace name the test that runs from now on; NoVerdict when lost."""
        try:
            device_process.set_test(self.sockets / device_process.SOCKET, nodeid)
        except NoVerdict as error:
            raise self.lost("test", str(error.args[0])) from error

    def accesses(self) -> int:
        """Return the number of accesses to the device process's functions so far.

        NoVerdict when it is lost.
        """
        try:
            return device_process.accesses(self.sockets / device_process.SOCKET)
        except NoVerdict as error:
            raise self.lost("collection", str(error.args[0])) from error

    def end_session(self, ran: int) -> None:
        """End the guest's pytest session; NoVerdict when its count of tests is not ``ran``."""
        self.set_test(None)
        self.send("shutdown", {"type": "end"})
        ended = self.receive("shutdown", "ended")
        if ended.get("ran") != ran:
            raise self.lost(
                "shutdown",
                f"the guest says that it ran {ended.get('ran')} tests, the host saw {ran}",
            )

    def begin_power_off(self) -> None:
        """Tell the guest to power off, once; `power_off` does that too, and waits for it.

        Other VMs stop watching it.
        """
        if self._told_to_end:
            return
        self._told_to_end = True
        for other in self._beside:
            if other._all:
                other._all.unregister(self)
        self.send("shutdown", {"type": "shutdown"})

    def power_off(self) -> None:
        """Power the guest off, then end the device process.

        NoVerdict when they do not end, or end with an error: the device process has a status other
        than 0 when one of its models failed.
        """
        self.begin_power_off()
        self.receive("shutdown", "bye")
        limit = self.deadlines["shutdown"]
        try:
            children.wait(self.qemu, wait_limit(limit))
        except subprocess.TimeoutExpired as error:
            raise self.lost(
                "shutdown", f"no power-off within its deadline of {limit:g} s"
            ) from error
        if self.qemu.returncode != 0:
            raise self.lost("shutdown", self._ended())
        self.check_answers("shutdown")
        if self.device.stdin is not None:
            self.device.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            children.wait(self.device, wait_limit(limit))
        if self.device.returncode != 0:
            raise self.lost("shutdown", exit_reasons.of_device(self.device, self.folder))

    def poll(self, phase: str, timeout_s: float) -> None:
        """Wait for any event; raise NoVerdict for one that means the run is lost."""
        if self._all is None:
            self._look(phase, timeout_s)
            return
        for key, _ in self._all.select(min(timeout_s, _WAIT_MAX_S)):
            key.data._look(phase, 0)

    def _look(self, phase: str, timeout_s: float) -> None:
        events = self._selector.select(min(timeout_s, _WAIT_MAX_S))
        ready = {key.fd for key, _ in events}
        if self.channel.fileno() in ready:
            self.channel.pull()
            self.unread = True
            if not self.channel.closed:
                return
        if self.monitor.panicked in ready and not self._panic_announced:
            raise self.lost(phase, "the guest reported a panic that it had not announced")
        if self.console.wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.console.wakeup, 64)
        ended = [key.data for key, _ in events if key.data is not None]
        if self.channel.closed or self.qemu in ended:
            self._await_last_words()
            if not ended and self.qemu.poll() is not None:
                ended = [self.qemu]  # its sockets close before it has ended
        if self.console.panic:
            raise self.lost(phase, f"the guest's kernel gave up: {self.console.panic}")
        if self.console.agent_ended:
            raise self.lost(phase, f"the guest's agent died: {self.console.agent_ended}")
        if ended:
            raise self.lost(phase, self._ended())
        if self.channel.closed:
            raise self.lost(phase, "the result channel was closed")

    def _ended(self) -> str:
        """Describe the process that ended, or the first one if both did."""
        said = exit_reasons.of_both(self.device, self.qemu, self.folder)
        if said is None or (self.device.poll() is None and self.qemu.poll() == 0):
            return "the guest powered off before the run had ended"
        return said

    def check_answers(self, phase: str) -> None:
        """Raise NoVerdict when the device did not answer QEMU: the guest then read all ones."""
        path = self.folder / "qemu.log"
        if self._qemu_log_size == (size := path.stat().st_size if path.exists() else 0):
            return
        self._qemu_log_size = size
        if not (said := exit_reasons.unanswered(tail(path, exit_reasons.LOG_LINES))):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.device.wait(_LATE_S)  # it is about to log which model hangs, and where
        if self.device.returncode is not None:
            raise self.lost(phase, self._ended())
        words = (
            "the device process did not answer QEMU in time, and the guest went on with all ones"
        )
        raise self.lost(phase, f"{words}: {said}")

    def _await_last_words(self) -> None:
        """Give QEMU a second to end after its channel, and the console half a second to be read."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.qemu.wait(1)
        end = time.monotonic() + _WORDS_MAX_S
        while not (self.console.panic or self.console.agent_ended) and time.monotonic() < end:
            time.sleep(0.02)

    def lost(self, phase: str, message: str) -> NoVerdict:
        """Return the error of a run that is lost in ``phase``, with what the logs say."""
        parts = [message]
        if self.qemu.poll() is None:
            with contextlib.suppress(MonitorError):
                state = self.monitor.command("query-status", timeout_s=1)
                parts.append(f"the VM was {state.get('status')} then; the run ends it")
        else:
            self.console.await_end(_WORDS_MAX_S)
        for name in _LOGS:
            if lines := tail(self.folder / name):
                parts.append(f"the last lines of {name}:")
                parts += [f"  | {line}" for line in lines]
        return NoVerdict(phase, "\n".join(parts), f"look into {self.folder}", subject=self.subject)
