#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""The guest's first process: mounts, modules, the agent, power off.

It is in Python because the guest has Python anyway, and each further program costs start-up time.
The kernel command line has module parameters as ``module.name=value``, as modprobe reads them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dma_rehearsal.guest.agent.channel import Channel

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
SYSRQ = Path("/proc/sysrq-trigger")
RESET_AFTER_S = 5.0
SYS_REBOOT = 169  # x86-64
REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_POWER_OFF = 0xFEE1DEAD, 0x28121969, 0x4321FEDC

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


def reap_until(child: int) -> int:
    """Collect every orphan, as the first process must, until ``child`` ends; return its status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def power_off() -> None:
    """Turn the machine off; does not return.

    The kernel first waits for each device. A driver that is stuck would keep it waiting for ever:
    then the machine is reset, which ends it, too.
    """
    os.sync()
    if os.fork() == 0:
        time.sleep(RESET_AFTER_S)
        SYSRQ.write_text("b")  # Linux, Documentation/admin-guide/sysrq.rst: at once
        os._exit(1)
    _libc.syscall(SYS_REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_POWER_OFF, None)


def run_agent(loaded: int) -> int:
    """Park the agent once ``loaded`` has a byte, then serve the harness; return the exit status.

    Its imports take seconds under emulation, and need none of the kernel's modules.
    """
    os.setsid()
    os.chdir(GUEST_FOLDER)
    from dma_rehearsal.guest.agent import parked
    from dma_rehearsal.guest.agent.channel import Channel, find_port

    parked.import_neutral()
    if not os.read(loaded, 1):
        raise RuntimeError("the first process ended before the kernel's modules were loaded")
    os.close(loaded)
    channel = Channel(os.open(find_port(), os.O_RDWR | os.O_CLOEXEC))
    return parked.run(channel, _serve)


def _serve(channel: Channel) -> int:
    """Serve with the sources of this run, which may have come while the agent was parked."""
    from dma_rehearsal.guest.agent import main as agent

    return agent.serve(channel)


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
    if IOMMUS.is_dir() and any(IOMMUS.iterdir()):  # a kernel may have none of it
        names += (MODULES / "order-iommu").read_text().split()
    for module in [*names, DRIVER]:
        load(module, parameters(module, command_line))
    with contextlib.suppress(BrokenPipeError):  # the agent has ended; its status says so
        os.write(tell, b"\0")
    os.close(tell)
    status = reap_until(child)
    print(f"init: the agent ended with status {status}", flush=True)
    power_off()


if __name__ == "__main__":
    main()
