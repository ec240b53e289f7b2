# SPDX-License-Identifier: Apache-2.0
"""A login shell in the guest, and further ones beside it; edits of ``guest/`` follow live.

Each shell uses a virtio console of the guest, whose other end is a Unix socket of QEMU. A lock file
beside the socket marks it as taken.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import (
    GUEST_FOLDER,
    SOURCE,
    GuestTests,
    is_copied,
)
from dma_rehearsal.host_harness.machine.launch import LIVE
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import HarnessError, Status, UsageError
from dma_rehearsal.host_harness.session.run import Run

ESCAPE = b"\x1d"  # Ctrl-]
# The guest writes this when a shell has ended; guest/agent/shells.py has the same bytes.
SHELL_ENDED = b"\x1b]777;dma-rehearsal;ended\x07"
# Begins the key sequence that tells the terminal's size; guest/agent/shells.py has the same bytes.
SIZE_KEY = "\x1b[777;"
_LOOK_S = 0.5  # between looks at the files of guest/


def run(run: Run) -> Status:
    """Boot the guest, let the user work in a shell until it ends, end the VM."""
    try:
        vm = run.boot()
        folder = run.folder
        if folder is None:
            raise RuntimeError("a booted run has a folder")
        followers = [Follower(vm), *_of_tests(vm, run.tests)]
        sources = [follower.source for follower in followers]
        run.progress.note(
            f"a login shell in the guest; exit or Ctrl-] ends the VM. Edits of "
            f"{' and '.join(map(str, sources))} follow.\n"
            f"  another shell beside it:  {advice.attach(folder)}",
            always=True,
        )
        with _taken(_facts(folder)) as console:
            relay(console, vm, lambda: _look(followers))
        vm.power_off()
    except HarnessError as error:
        run.error = error
        print(f"error: {error}", file=sys.stderr)
    return run.conclude(Status.PASSED, tests=False)


def _look(followers: list[Follower]) -> None:
    for follower in followers:
        follower.look()


def _of_tests(vm: Vm, tests: GuestTests) -> list[Follower]:
    """Return a follower for each folder of a user's own guest tests."""
    return [
        Follower(vm, tests.root / path, f"{tests.root_in_guest}/{path}")
        for path in tests.files()
        if (tests.root / path).is_dir()
    ]


def attach(folder: Path) -> Status:
    """Open one more shell in the VM of the run's ``folder``. UsageError when no VM runs there."""
    with _taken(_facts(folder)) as console:
        relay(console)
    return Status.PASSED


def _facts(folder: Path) -> list[Path]:
    """Return the sockets of a live VM's shells."""
    try:
        facts = json.loads((folder / LIVE).read_text())
        return [Path(path) for path in facts["shells"]]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"no VM that has shells runs for {folder}",
            f"start one with: {advice.command('shell')} (or a run with KEEP=1), then name its "
            "folder",
        ) from error


@contextmanager
def _taken(sockets: list[Path]) -> Iterator[socket.socket]:
    """Connect to the first free shell, and hold it."""
    for path in sockets:
        with contextlib.suppress(FileNotFoundError), path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                try:
                    stream.connect(str(path))
                except OSError as error:
                    raise UsageError(f"the VM's shell does not answer: {error}") from error
                yield stream
                return
    raise UsageError(f"all {len(sockets)} shells of this VM are in use", "leave one of them first")


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Give every key to the guest, Ctrl-C too, where ``descriptor`` is a terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def relay(
    console: socket.socket, vm: Vm | None = None, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Carry bytes between the user and a shell until it ends, or the user leaves with Ctrl-].

    ``meanwhile`` is called now and then. NoVerdict when ``vm`` is given and is lost.
    """
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    size = shutil.get_terminal_size()
    # The shell prints its prompt again: nobody saw the first one.
    console.sendall(f"{SIZE_KEY}{size.lines};{size.columns}~".encode())
    poll = select.poll()
    for descriptor in (console, keyboard, *([vm] if vm else [])):
        poll.register(descriptor, select.POLLIN)
    held = b""
    with _raw(keyboard):
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_S * 1000)}
            if console.fileno() in ready:
                data = console.recv(1 << 16)
                if not data:
                    return
                shown, held, ended = _until_end(held + data)
                try:
                    _write_all(screen, shown)
                except BrokenPipeError:  # nobody reads any more
                    return
                if ended:
                    return
            if keyboard in ready:
                typed = os.read(keyboard, 1 << 12)
                if not typed:  # a script's end: its programs may still print
                    poll.unregister(keyboard)
                    typed = b"\x04"
                head, escape, _ = typed.partition(ESCAPE)
                with contextlib.suppress(BrokenPipeError):  # QEMU has ended: console has its end
                    console.sendall(head)
                if escape:
                    return
            if vm and vm.fileno() in ready:
                vm.poll("kept", 0)
            meanwhile()


def _until_end(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return the bytes to show, those to hold back (the mark may have begun), and if it came."""
    shown, mark, _ = data.partition(SHELL_ENDED)
    if mark:
        return shown, b"", True
    for length in range(min(len(SHELL_ENDED) - 1, len(data)), 0, -1):
        if SHELL_ENDED.startswith(data[-length:]):
            return data[:-length], data[-length:], False
    return data, b"", False


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class Follower:
    """Copies the files of ``source`` that change into a running guest, below ``target`` there."""

    def __init__(
        self, vm: Vm, source: Path = SOURCE / "guest", target: str = f"/{GUEST_FOLDER}"
    ) -> None:
        self._vm = vm
        self.source = source
        self._target = target
        self._known = self._files()
        self._next = 0.0

    def look(self) -> None:
        """Copy what changed since the last look; at most once in ``_LOOK_S`` seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_S
        now = self._files()
        for name in sorted(now.keys() | self._known.keys()):
            if now.get(name) == self._known.get(name):
                continue
            data = None
            if name in now:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    data = base64.b64encode((self.source / name).read_bytes()).decode()
            self._vm.store(f"{self._target}/{name}", data)
        self._known = now

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.source.rglob("*"):
            name = path.relative_to(self.source)
            if is_copied(name) and path.is_file():
                status = path.stat()
                found[str(name)] = status.st_mtime_ns, status.st_size
        return found
