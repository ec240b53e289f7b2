# SPDX-License-Identifier: Apache-2.0
"""A tiny process that cleans up when the harness ends in any way, SIGKILL included.

The harness holds the only writing end of a pipe and tells the janitor, one line each, which
process groups and folders are its own::

    +group 1234      -group 1234      +path /tmp/folder      -path /tmp/folder

When the pipe ends, because the harness closed it or has died, the janitor kills the groups that
are still registered, removes the folders that are still registered, and exits. It has a
session of its own and ignores SIGINT, SIGHUP and SIGTERM, so Ctrl-C and a closed terminal reach
the harness alone. This file is also the janitor's program: ``python -I -S janitor.py``, so it
imports the standard library only.

It cannot handle two cases: a process that left its group by setsid, and its own death by SIGKILL.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LINE_LIMIT = 4096  # PIPE_BUF: a line is written whole or not at all, by whichever process writes
_KILL_WAIT_S = 5.0
_REMOVE_WAIT_S = 5.0
_CLOSE_WAIT_S = 20.0


_all: weakref.WeakSet[Janitor] = weakref.WeakSet()


class Janitor:
    """A janitor process and the lines that were sent to it.

    Use it as a context manager, or the module's functions, which share one for this process. It is
    started at the first registration, and again if it was killed. Safe for threads; a forked
    child lets go of the pipe, so it cannot keep the janitor waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        _all.add(self)

    def __enter__(self) -> Janitor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The janitor's process id; None before the first registration and after the end."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process now, not at the first registration. OSError when it cannot."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """End the pipe and wait until what was still registered is killed and removed."""
        with self._lock:
            process, self._process = self._process, None
            self._lines.clear()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_CLOSE_WAIT_S)

    def forget(self) -> None:
        """Let go of the pipe without waiting; for a forked child, whose parent keeps it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.returncode = 0  # the parent's child, not ours to wait for
        self._process = None
        self._lines = set()
        self._lock = threading.Lock()

    @contextmanager
    def guard_group(self, pgid: int) -> Iterator[None]:
        """Have the process group ``pgid`` killed if this process ends within the block.

        Leave the block only when the group has ended: leaving it does not kill. ValueError for an
        id that cannot be a child's group. A group that begins within a ``Popen`` is better
        registered by ``registrar()``, before its program runs.
        """
        if pgid <= 1 or pgid == os.getpgrp():
            raise ValueError(f"{pgid} is not a process group that a janitor may kill")
        with self._registered("group", str(pgid)):
            yield

    @contextmanager
    def guard_path(self, path: Path) -> Iterator[None]:
        """Have the folder or file ``path`` removed if this process ends within the block.

        Register a path before it is made: one that is not there is passed over. Leaving the block
        removes nothing. ValueError for a path that is relative, too long or the root.
        """
        text = str(path)
        if not path.is_absolute() or path.parent == path or ".." in path.parts or "\n" in text:
            raise ValueError(f"{text!r} is not a folder that a janitor may remove")
        with self._registered("path", text):
            yield

    @contextmanager
    def registrar(self) -> Iterator[Callable[[], None]]:
        """Yield a function for ``Popen(preexec_fn=...)`` that registers the child's own group.

        With ``start_new_session=True`` the group is registered before its program runs, so a
        SIGKILL of the harness never misses it. End with ``drop_group``.
        """
        with self._lock:
            self._start()
            # A copy, because the original is closed in every forked child; gone after exec.
            copy = os.dup(self._pipe())

        def register() -> None:
            os.write(copy, f"+group {os.getpid()}\n".encode())

        try:
            yield register
        finally:
            os.close(copy)

    def keep_group(self, pgid: int) -> None:
        """Remember a group that ``registrar()`` registered, should the janitor start again."""
        with self._lock:
            self._lines.add(f"group {pgid}")

    def drop_group(self, pgid: int) -> None:
        """Cancel the registration of a group that has ended."""
        self._tell("-", f"group {pgid}")

    @contextmanager
    def _registered(self, kind: str, value: str) -> Iterator[None]:
        line = f"{kind} {value}"
        if len(os.fsencode(line)) + 2 > _LINE_LIMIT:
            raise ValueError(f"{line[:80]}... is longer than {_LINE_LIMIT} bytes")
        self._tell("+", line)
        try:
            yield
        finally:
            self._tell("-", line)

    def _tell(self, sign: str, line: str) -> None:
        with self._lock:
            if sign == "+":
                self._lines.add(line)
            else:
                self._lines.discard(line)
                if self._process is None:
                    return
            if self._start():  # a new one has received every registered line
                return
            try:
                os.write(self._pipe(), os.fsencode(f"{sign}{line}\n"))
            except BrokenPipeError:  # killed since the check
                if self._process is not None:
                    self._process.wait(_CLOSE_WAIT_S)
                self._start()

    def _pipe(self) -> int:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the janitor has not been started")
        return self._process.stdin.fileno()

    def _start(self) -> bool:
        """Start the process unless it runs; return whether a new one was started."""
        if self._process is not None and self._process.poll() is None:
            return False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an inherited pipe would keep its reader waiting
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        for line in sorted(self._lines):
            os.write(self._pipe(), os.fsencode(f"+{line}\n"))
        return True


def _forget_all() -> None:
    for each in list(_all):
        each.forget()


_shared = Janitor()
atexit.register(_shared.close)
os.register_at_fork(after_in_child=_forget_all)

start = _shared.start
guard_group = _shared.guard_group
guard_path = _shared.guard_path
registrar = _shared.registrar
keep_group = _shared.keep_group
drop_group = _shared.drop_group
close = _shared.close


def _stat_fields(pid: int) -> list[str]:
    """Return /proc/PID/stat from its third field (the state) on; nothing for no process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def start_time(pid: int) -> str | None:
    """Return when a process began, in clock ticks since boot; None when it has ended."""
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else None


def group_is_alive(pgid: int) -> bool:
    """Return whether a process of the group runs; a zombie is not alive."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if len(fields) > 2 and fields[2] == str(pgid) and fields[0] not in "ZX":
                return True
    return False


def kill_group(pgid: int, started: str | None) -> None:
    """Kill a process group and wait, for some seconds, until none of it is alive.

    ``started`` is its leader's ``start_time``. A leader with another start time means that the
    group has ended and its number was used again: nothing is killed then.
    """
    if start_time(pgid) not in (None, started):
        return
    deadline = time.monotonic() + _KILL_WAIT_S
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, signal.SIGKILL)
        if not group_is_alive(pgid) or time.monotonic() > deadline:
            return
        time.sleep(0.01)


def remove_tree(path: Path) -> None:
    """Remove a folder, even where its own folders are not writable, or a single file.

    Links are removed and never followed; a mounted file system is not entered. Files may vanish
    meanwhile, and a folder that others still fill is tried for some seconds. OSError names what
    cannot be removed.
    """
    deadline = time.monotonic() + _REMOVE_WAIT_S
    while True:
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            status = os.lstat(path.name, dir_fd=folder)
            _remove(path.name, folder, status.st_dev, str(path))
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise
        finally:
            os.close(folder)
        time.sleep(0.05)


def _remove(name: str, parent: int, device: int, shown: str) -> None:
    status = os.lstat(name, dir_fd=parent)
    if not stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return
    if status.st_dev != device:
        raise OSError(errno.EBUSY, "a file system is mounted here", shown)
    if status.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(name, flags, dir_fd=parent)
    try:
        for inner in os.listdir(folder):  # noqa: PTH208 - pathlib has none for a descriptor
            with contextlib.suppress(FileNotFoundError):
                _remove(inner, folder, device, f"{shown}/{inner}")
    finally:
        os.close(folder)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def _serve() -> None:
    """Be the janitor: read lines until the pipe ends, then clean up."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, str | None] = {}
    paths: dict[str, None] = {}
    for raw in sys.stdin.buffer:
        if not raw.endswith(b"\n"):
            break
        word, _, value = os.fsdecode(raw[:-1]).partition(" ")
        if word == "+group":
            groups[int(value)] = start_time(int(value))
        elif word == "-group":
            groups.pop(int(value), None)
        elif word == "+path":
            paths[value] = None
        elif word == "-path":
            paths.pop(value, None)
    for pgid, started in groups.items():
        kill_group(pgid, started)
    for path in paths:
        with contextlib.suppress(OSError):
            remove_tree(Path(path))


if __name__ == "__main__":
    _serve()
