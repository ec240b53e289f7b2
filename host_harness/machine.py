"""QEMU's command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from . import memory
from .qemu import Qemu

RESULTS_PORT = "org.dma-rehearsal.results"
_CPUS = 2


@dataclass(frozen=True, slots=True)
class Wiring:
    """Descriptors and paths by which QEMU reaches the harness and the device process."""

    console_fd: int
    results_fd: int
    qmp_fd: int
    initramfs_fd: int
    exerciser_socket: Path
    platform_socket: Path
    shell_sockets: tuple[Path, ...] = ()
    gdb_socket: Path | None = None


def kernel_command_line(extra: list[str]) -> str:
    """Return the guest kernel's command line, ``extra`` words at its end."""
    words = [
        *("console=ttyS0", "quiet", "panic=-1", "reboot=acpi"),
        # Under emulation the checks that these leave out cost seconds and find nothing.
        *("tsc=reliable", "no_timer_check", "cryptomgr.notests", "random.trust_cpu=on"),
        *memory.kernel_arguments(),
        *extra,
    ]
    return " ".join(words)


def command(
    qemu: Qemu,
    accelerator: str,
    kernel: Path,
    console_log: Path,
    wiring: Wiring,
    kernel_words: list[str],
) -> list[str]:
    """Return QEMU's argv for a run. All sizes are in bytes."""
    machine = ",".join(
        [
            "q35",
            f"accel={accelerator}",
            "memory-backend=ram",
            f"max-ram-below-4g={memory.RAM_BELOW_4G}",
            *("smbus=off", "sata=off", "i8042=off", "vmport=off", "hpet=off"),
        ]
    )
    return [
        *qemu.command,
        *("-name", "dma-rehearsal", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine, "-cpu", "max", "-smp", str(_CPUS), "-no-reboot"),
        *("-m", f"{memory.RAM_SIZE // memory.MIB}M"),
        # Shared by descriptor with the device process.
        *("-object", f"memory-backend-memfd,id=ram,size={memory.RAM_SIZE},share=on"),
        *("-kernel", str(kernel), "-initrd", f"/proc/self/fd/{wiring.initramfs_fd}"),
        *("-append", kernel_command_line([*_shell_words(wiring), *kernel_words])),
        *("-chardev", f"socket,id=console,fd={wiring.console_fd},logfile={console_log}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=results,fd={wiring.results_fd}"),
        *("-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=results,name={RESULTS_PORT}"),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}", "-qmp", "chardev:qmp"),
        *("-device", _vfio_user("exerciser", wiring.exerciser_socket)),
        *("-device", _vfio_user("platform", wiring.platform_socket)),
        *_shell_consoles(wiring),
        *(("-gdb", f"unix:{wiring.gdb_socket},server=on,wait=off") if wiring.gdb_socket else ()),
    ]


def _shell_words(wiring: Wiring) -> list[str]:
    return [f"rehearsal.shells={len(wiring.shell_sockets)}"] if wiring.shell_sockets else []


def _shell_consoles(wiring: Wiring) -> list[str]:
    """Return one virtio console for each shell, /dev/hvc0 and up in the guest."""
    words = []
    for number, path in enumerate(wiring.shell_sockets):
        words += ["-chardev", f"socket,id=shell{number},path={path},server=on,wait=off"]
        words += ["-device", f"virtconsole,chardev=shell{number}"]
    return words


def _vfio_user(name: str, path: Path) -> str:
    return json.dumps(
        {"driver": "vfio-user-pci", "id": name, "socket": {"type": "unix", "path": str(path)}}
    )
