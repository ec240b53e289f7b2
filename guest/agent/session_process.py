# SPDX-License-Identifier: Apache-2.0
"""A process for each session: what the session changes, such as a named fault, ends with it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Final

from dma_rehearsal.guest.agent.channel import Channel, ChannelError

_POSITION: Final = struct.Struct("<QQ")
_END_S: Final = 5.0  # from a session's end to that of its process
_PR_SET_PDEATHSIG: Final = 1  # Linux, include/uapi/linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def run(channel: Channel, session: Callable[[], None]) -> int:
    """Run ``session`` in a forked process that talks over ``channel``; return its exit status.

    0: this process continues on the channel where the session stopped. Otherwise the session
    raised, and the host knows why. A signal that ends the session's process ends this one, too;
    and the session's process ends with this one. A process that has done all and does not end,
    because a thread of it is stuck in the kernel, is left behind.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    with mmap.mmap(-1, _POSITION.size) as position:  # shared with the child
        done, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(done)
            _run_here(channel, session, parent, position, tell)
        os.close(tell)
        status = _wait(child, done)
        os.close(done)
        if status == 0:
            sent, received = _POSITION.unpack(position)
            channel.position = sent, received
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(parent, -status)
    return status


def _wait(child: int, done: int) -> int:
    """Wait until ``child`` has ended, or for long enough since it said so on the pipe ``done``."""
    process = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([process, done], [], [])
        if process not in ready and os.read(done, 1):
            ready, _, _ = select.select([process], [], [], _END_S)
            if not ready:
                return 0
    finally:
        os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_here(
    channel: Channel, session: Callable[[], None], parent: int, position: mmap.mmap, tell: int
) -> None:
    """Run the session in this process and end it; does not return."""
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else the parent ended before prctl() took effect
            session()
            position[:] = _POSITION.pack(*channel.position)
            os.write(tell, b"\0")
            status = 0
    except Exception:
        try:
            channel.send({"type": "error", "text": traceback.format_exc()})
        except ChannelError as error:
            print(f"agent: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
