#!/usr/bin/python3 -I
"""The guest's first process: mounts, modules, the agent, power off.

It is Python because the guest has Python anyway and each further program costs start-up time.
Module parameters stand on the kernel command line as ``module.name=value``, as modprobe reads them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

GUEST_FOLDER = Path("/opt/dma-rehearsal/guest")
MODULES = Path("/lib/modules/rehearsal")
DRIVER = "dma_rehearsal"

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MOUNTS = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ("devtmpfs", "/dev", MS_NOSUID),
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV),
    ("debugfs", "/sys/kernel/debug", MS_NOSUID | MS_NODEV | MS_NOEXEC),
)
SYS_REBOOT, SYS_FINIT_MODULE = 169, 313  # x86-64
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


def parameters(module: str, command_line: str) -> str:
    """Return the parameters of ``module`` that the kernel command line carries."""
    prefix = f"{module}."
    return " ".join(
        word.removeprefix(prefix) for word in command_line.split() if word.startswith(prefix)
    )


def load(module: str, arguments: str) -> None:
    """Load one module of MODULES; OSError with the kernel's reason."""
    descriptor = os.open(MODULES / f"{module}.ko", os.O_RDONLY | os.O_CLOEXEC)
    try:
        result = _libc.syscall(SYS_FINIT_MODULE, descriptor, arguments.encode(), 0)
        _check(result, f"loading {module} {arguments}".rstrip())
    finally:
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


def run_agent() -> int:
    """Serve the harness in this process; return the exit status."""
    os.setsid()
    os.chdir(GUEST_FOLDER)
    sys.path.insert(0, str(GUEST_FOLDER))
    from suite import agent

    return agent.main([])


def main() -> None:
    """Bring the guest up, run the agent, turn the guest off."""
    print("init: up", flush=True)
    mount_all()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
    os.environ["PYTHONPATH"] = str(GUEST_FOLDER)
    command_line = Path("/proc/cmdline").read_text()
    for module in [*(MODULES / "order").read_text().split(), DRIVER]:
        load(module, parameters(module, command_line))
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = run_agent()
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = reap_until(child)
    print(f"init: the agent ended with status {status}", flush=True)
    power_off()


if __name__ == "__main__":
    main()
