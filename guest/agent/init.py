#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""The guest's first process: mounts, modules, shells if wanted, the agent, power off.

It is in Python because the guest has Python anyway, and each further program costs start-up time.
The kernel command line has module parameters as ``module.name=value``, as modprobe reads them.
``rehearsal.shells=N`` gives a login shell on each of /dev/hvc0 to /dev/hvcN-1.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sys
import termios
import time
import traceback
from pathlib import Path

ROOT = Path("/opt/dma-rehearsal")
GUEST_FOLDER = ROOT / "dma_rehearsal" / "guest"
DRIVER = "dma_rehearsal"
IOMMUS = Path("/sys/class/iommu")  # Linux, sysfs-class-iommu: one entry for each that is in use

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MOUNTS = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ("devtmpfs", "/dev", MS_NOSUID),
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV),
    ("debugfs", "/sys/kernel/debug", MS_NOSUID | MS_NODEV | MS_NOEXEC),
)
SYS_REBOOT = 169  # x86-64
REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_POWER_OFF = 0xFEE1DEAD, 0x28121969, 0x4321FEDC

SHELLS_MAX = 8
SHELL = "/bin/bash"
# Tells the host's terminal that the shell has ended; the host has the same bytes.
SHELL_ENDED = b"\x1b]777;dma-rehearsal;ended\x07"
SHELL_PROFILE = """\
PS1='guest:\\w# '
# The image has no package with these.
clear() { printf '\\033[H\\033[2J'; }
which() { type -P "$@"; }
free() { head -n 3 /proc/meminfo; }
cd /opt/dma-rehearsal/project 2>/dev/null || cd /opt/dma-rehearsal/dma_rehearsal/guest
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount_all() -> None:
    """Mount the file systems that a usual init would; OSError names the one that failed."""
    for kind, where, flags in MOUNTS:
        Path(where).mkdir(exist_ok=True)
        result = _libc.mount(kind.encode(), where.encode(), kind.encode(), flags, None)
        _check(result, f"mount {where}")


def start_shells(count: int) -> None:
    """Keep a login shell on each of the first ``count`` virtio consoles, for as long as we run."""
    Path(os.environ["HOME"], ".bash_profile").write_text(SHELL_PROFILE)
    for number in range(min(count, SHELLS_MAX)):
        if os.fork() == 0:
            while True:
                try:
                    keep_shell(f"/dev/hvc{number}")
                except FileNotFoundError:
                    pass  # the console's port is announced a moment after its driver is loaded
                except OSError as error:
                    print(f"init: shell {number}: {error}", flush=True)
                time.sleep(0.2)


def keep_shell(terminal: str) -> None:
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


def reap_until(child: int) -> int:
    """Collect every orphan, as the first process must, until ``child`` ends; return its status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def power_off() -> None:
    """Turn the machine off; does not return."""
    os.sync()
    _libc.syscall(SYS_REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_POWER_OFF, None)


def run_agent(loaded: int) -> int:
    """Serve the harness in this process once ``loaded`` has a byte; return the exit status.

    The agent's own modules take seconds to import under emulation, and need none of the kernel's.
    """
    os.setsid()
    os.chdir(GUEST_FOLDER)
    from dma_rehearsal.guest.agent import main as agent
    from dma_rehearsal.guest.agent import pytest_session

    pytest_session.preload()
    if not os.read(loaded, 1):
        raise RuntimeError("the first process ended before the kernel's modules were loaded")
    os.close(loaded)
    return agent.main([])


def start_agent() -> tuple[int, int]:
    """Start the agent's process; return its id, and where it waits for a byte to begin."""
    loaded, tell = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(loaded)
        return child, tell
    status = 70
    try:
        os.close(tell)
        status = run_agent(loaded)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Bring the guest up, run the agent, turn the guest off."""
    print("init: up", flush=True)
    mount_all()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path.insert(0, str(ROOT))  # python -I leaves out PYTHONPATH
    child, tell = start_agent()
    from dma_rehearsal.guest.linux.kernel_modules import MODULES, load, parameters

    command_line = Path("/proc/cmdline").read_text()
    names = (MODULES / "order").read_text().split()
    if any(IOMMUS.iterdir()):
        names += (MODULES / "order-iommu").read_text().split()
    for module in [*names, DRIVER]:
        load(module, parameters(module, command_line))
    asked = dict(
        word.split("=", 1) for word in parameters("rehearsal", command_line).split() if "=" in word
    )
    start_shells(int(asked.get("shells", 0)))
    with contextlib.suppress(BrokenPipeError):  # the agent has ended; its status says so
        os.write(tell, b"\0")
    os.close(tell)
    status = reap_until(child)
    print(f"init: the agent ended with status {status}", flush=True)
    power_off()


if __name__ == "__main__":
    main()
