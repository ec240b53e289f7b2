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
SIZE_KEY: Final = "\x1b[777;"
"""Begins a key sequence, ended by ``~``, with which the host tells rows and columns: 24;80."""
SHELL_PROFILE: Final = r"""
PS1='guest:\w# '
# The image has no package with these.
clear() { printf '\033[H\033[2J'; }
which() { type -P "$@"; }
free() { head -n 3 /proc/meminfo; }
more() {
    cat -- "$@" | {
        rows=$(stty size </dev/tty) shown=0
        while IFS= read -r line || [[ $line ]]; do
            printf '%s\n' "$line"
            [[ -t 1 ]] && (( ++shown >= ${rows% *} - 1 )) || continue
            IFS= read -rsn 1 -p '--more-- (Enter: a line, q: leave)' key </dev/tty
            printf '\r\033[K'
            [[ $key == q ]] && break
            [[ $key ]] && shown=0
        done
    }
}
less() { more "$@"; }
run-test() { python3 -m pytest -p dma_rehearsal.guest.testkit.plugin "$@"; }
cd /opt/dma-rehearsal/dma_rehearsal/guest
_here='guest/ of the host: suite/ (tests), iobuffer/ (allocator), drivers/'
if cd /opt/dma-rehearsal/project 2>/dev/null; then
    _here='the folder of your tests'
fi
_greet() {
    cat <<END
A guest with the rehearsal's devices. You are root.
  here       $_here
  edit       on the host: the files here follow
  a test     run-test suite/test_direction.py -k test_in (no host, so no verdict)
  devices    lspci -nnk
  to read    more FILE, dmesg | more (less is the same; there is no top)
  leave      exit or Ctrl-]; the first shell ends the VM
END
    _greet() { :; }
}
# The host tells its terminal's size by a key sequence, which is not echoed. The first one comes
# with the first user: before, nobody could read a greeting.
_size() {
    local rows columns
    IFS=';' read -rs -d '~' rows columns
    stty rows "$rows" cols "$columns"
    _greet
}
bind -x '"\e[777;": _size'
stty echo
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
            _do_not_echo(descriptor)
            os.environ["TERM"] = "xterm"
            os.execv(SHELL, ["-bash"])
        finally:
            os._exit(127)
    os.waitpid(child, 0)
    descriptor = os.open(terminal, os.O_WRONLY | os.O_NOCTTY)
    os.write(descriptor, SHELL_ENDED)
    os.close(descriptor)


def _do_not_echo(terminal: int) -> None:
    """Keep a terminal silent until the shell reads: the host may have sent its size by then."""
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
