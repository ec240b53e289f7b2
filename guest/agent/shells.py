# SPDX-License-Identifier: Apache-2.0
"""Login shells on the guest's virtio consoles, for people. Standard library only."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time
import traceback
from pathlib import Path
from typing import Final

SHELLS_MAX: Final = 8
SHELL: Final = "/bin/bash"
# Tells the host's terminal that the shell has ended; the host has the same bytes.
SHELL_ENDED: Final = b"\x1b]777;dma-rehearsal;ended\x07"
SHELL_PROFILE: Final = """\
PS1='guest:\\w# '
# The image has no package with these.
clear() { printf '\\033[H\\033[2J'; }
which() { type -P "$@"; }
free() { head -n 3 /proc/meminfo; }
cd /opt/dma-rehearsal/project 2>/dev/null || cd /opt/dma-rehearsal/dma_rehearsal/guest
"""
STARTED: Final = Path("/run/dma-rehearsal/shells")
"""The number of consoles that have a shell, 0 without the file."""


def start(count: int) -> None:
    """Keep a login shell on each of the first ``count`` virtio consoles, as long as the guest runs.

    Consoles that have one already keep it.
    """
    started = int(STARTED.read_text()) if STARTED.exists() else 0
    if count <= started:
        return
    Path(os.environ["HOME"], ".bash_profile").write_text(SHELL_PROFILE)
    for number in range(started, count):
        _start_keeper(f"/dev/hvc{number}")
    STARTED.parent.mkdir(parents=True, exist_ok=True)
    STARTED.write_text(str(count))


def _start_keeper(terminal: str) -> None:
    """Start a process that keeps a shell on ``terminal``, as a child of the first process."""
    between = os.fork()
    if between != 0:
        os.waitpid(between, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # among them the channel to the host
            while True:
                try:
                    keep(terminal)
                except FileNotFoundError:
                    pass  # the console's port is announced a moment after its driver is loaded
                except OSError as error:
                    print(f"shell on {terminal}: {error}", file=sys.__stderr__, flush=True)
                time.sleep(0.2)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(0)


def keep(terminal: str) -> None:
    """Run one login shell, whose controlling terminal is ``terminal``, to its end."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            descriptor = os.open(terminal, os.O_RDWR)
            fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
            for target in 0, 1, 2:
                os.dup2(descriptor, target)
            os.environ["TERM"] = "xterm"
            os.execv(SHELL, ["-bash"])
        finally:
            os._exit(127)
    os.waitpid(child, 0)
    descriptor = os.open(terminal, os.O_WRONLY | os.O_NOCTTY)
    os.write(descriptor, SHELL_ENDED)
    os.close(descriptor)
