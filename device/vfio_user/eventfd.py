# SPDX-License-Identifier: Apache-2.0
"""A client's eventfd: adds 1 to it, and never waits for the client.

Theory of operation. The client shares the file that it sent, its flags too, and can fill the
counter at any time; write(2) then waits until it is read, and poll(2) before it asks about a
moment that is over. The kernel's own eventfd_signal, by which VFIO and KVM signal, never waits: a
counter at its end stays there. Linux's native asynchronous I/O ends with just that
(IOCB_FLAG_RESFD): the request is a read of no bytes of the eventfd itself, which fails, and takes
nothing, before io_submit(2) returns.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import platform
import select
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

_log = logging.getLogger(__name__)
# io_setup, io_submit, io_getevents: Linux's arch/x86/entry/syscalls/syscall_64.tbl, and
# include/uapi/asm-generic/unistd.h, which newer machines share.
_NUMBERS = {
    "x86_64": (206, 209, 208),
    "aarch64": (0, 2, 4),
    "riscv64": (0, 2, 4),
    "loongarch64": (0, 2, 4),
}
_PREAD, _RESFD = 0, 1  # IOCB_CMD_PREAD, IOCB_FLAG_RESFD
_EVENT_SIZE, _EVENTS = 32, 64


class _Iocb(ctypes.Structure):
    """``struct iocb`` of include/uapi/linux/aio_abi.h, on a machine of little-endian order."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("file", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    )


class _Submission(NamedTuple):
    """The arguments of io_submit(2) for one descriptor, and the memory that they lead to."""

    arguments: tuple[object, ...]
    memory: tuple[object, ...]


class Signaller(Protocol):
    """A way to signal an eventfd."""

    def signal(self, descriptor: int) -> bool:
        """Add 1, or leave a counter that is at its end. Return whether that could be done."""


class AioSignaller:
    """By asynchronous I/O. For several threads, which share its context.

    It keeps the arguments of each descriptor, at most as many as the process may have.
    """

    def __init__(self, machine: str = platform.machine()) -> None:
        """Raise OSError where there is none: another machine, kernel or container."""
        if machine not in _NUMBERS or sys.byteorder != "little" or sys.maxsize < 1 << 32:
            raise OSError(errno.ENOSYS, f"no asynchronous I/O on {machine}")
        setup, self._submit, self._reap = _NUMBERS[machine]
        # Python's lock is held: nothing here waits.
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        context = ctypes.c_void_p(0)
        if self._call(ctypes.c_long(setup), ctypes.c_long(1), ctypes.byref(context)) != 0:
            raise OSError(ctypes.get_errno(), "io_setup")
        self._context = context.value or 0
        self._submissions: dict[int, _Submission] = {}  # by descriptor, whatever it leads to
        self._events = ctypes.create_string_buffer(_EVENTS * _EVENT_SIZE)
        self._try_out()

    def _try_out(self) -> None:
        """Raise OSError where a kernel does otherwise (before 5.8, or one that is made up)."""
        trial = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            if not self.signal(trial) or os.eventfd_read(trial) != 1:
                raise OSError(errno.ENOSYS, "asynchronous I/O signals no eventfd")
        finally:
            os.close(trial)

    def signal(self, descriptor: int) -> bool:
        """See ``Signaller.signal``."""
        found = self._submissions.get(descriptor)
        if found is None:
            found = self._submissions[descriptor] = self._submission(descriptor)
        while self._call(*found.arguments) != 1:
            if ctypes.get_errno() != errno.EAGAIN or not self._reaped():
                return False
        return True

    def _submission(self, descriptor: int) -> _Submission:
        """Return the call for a descriptor: to make its arguments takes as long as the call."""
        request = _Iocb(opcode=_PREAD, flags=_RESFD, file=descriptor, eventfd=descriptor)
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
        place = ctypes.c_void_p(ctypes.addressof(requests))
        numbers = (ctypes.c_long(each) for each in (self._submit, self._context, 1))
        return _Submission((*numbers, place), (request, requests))

    def _reaped(self) -> bool:
        """Take completions away, which have no news, and make room. Return whether there were."""
        numbers = (ctypes.c_long(each) for each in (self._reap, self._context, 0, _EVENTS))
        return bool(self._call(*numbers, self._events, None) > 0)


class PollSignaller:
    """By poll(2) and write(2), where there is nothing better: a client may come in between."""

    def signal(self, descriptor: int) -> bool:
        """See ``Signaller.signal``."""
        ask = select.poll()
        ask.register(descriptor, select.POLLOUT)
        try:
            if not is_eventfd(descriptor):
                return False
            # POLLERR is a counter that the kernel brought to its end: full, not writable.
            if ask.poll(0) == [(descriptor, select.POLLOUT)]:
                os.eventfd_write(descriptor, 1)
        except OSError:
            return False
        return True


@functools.cache
def signaller() -> Signaller:
    """Return this process's way to signal an eventfd; its making costs more than many signals."""
    try:
        return AioSignaller()
    except OSError as error:
        _log.info("eventfds are written to, and not signalled: %s", error)
        return PollSignaller()


# A context is not a forked child's.
os.register_at_fork(after_in_child=signaller.cache_clear)


def is_eventfd(descriptor: int) -> bool:
    """Return whether it is an eventfd, as /proc has it. False for a closed one."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "anon_inode:[eventfd]"
    except OSError:
        return False
