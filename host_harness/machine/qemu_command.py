# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.result_frames import PORT_NAME
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.machine import guest_memory, plugged_functions
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction

# QEMU's docs/specs/pvpanic.rst; guest/testkit/host_witness.py writes to it.
PANIC_PORT = 0x505
_CPUS = 2
# TCG does "rep stosb" and "rep movsb" byte by byte. Without these two flags the guest's kernel and
# its C library take 8 bytes at a time, or vectors, to fill and to copy memory.
_CPU = {"tcg": "max,erms=off,fsrm=off"}
# The number of consoles that a shell can be opened on, /dev/hvc0 and up in the guest. They are
# always plugged in: the same saved state then serves runs with and without shells.
SHELLS = 4
# The slots of the root bus. A saved state has each function at its slot, so a slot must not depend
# on which other functions are plugged in. Slot 2 is the bridge's behind an IOMMU.
# `plugged_functions` has the slots of the endpoints.
_SERIAL, _OUTSIDE = 1, 2
_EDUS, _PLATFORM = (2, 3), 5
# A second opinion: one with its default of 28 address bits, one with 40. Nothing maps memory for
# them behind an IOMMU.
_EDU = (
    *("-device", f"edu,bus=pcie.0,addr={_EDUS[0]:#x}"),
    *("-device", f"edu,bus=pcie.0,addr={_EDUS[1]:#x},dma_mask={(1 << 40) - 1}"),
)
# caching-mode: each mapping that the guest makes reaches the device process, too. Devices on the
# bus "soc" are outside the IOMMU: the platform must reach page tables, which are not mapped for it.
_IOMMU = (
    *("-device", "intel-iommu,intremap=on,caching-mode=on"),
    *("-device", f"pxb-pcie,id=outside,bus_nr=8,bypass_iommu=on,addr={_OUTSIDE:#x}"),
    *("-device", "pcie-root-port,id=soc,bus=outside,chassis=1,addr=0x0"),
)
# Slots for hot-plug are those of root ports in this chassis, numbered from 1. The guest's driver
# for them is pciehp: without these words the firmware's ACPI tables would keep them for ACPI.
_CHASSIS = 2
_NATIVE_HOTPLUG = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")


@dataclass(frozen=True, slots=True)
class Wiring:
    """Descriptors and paths by which QEMU reaches the harness and the device process.

    Without ``initramfs_fd`` the guest does not boot: it comes from a saved state.
    """

    console_fd: int
    results_fd: int
    qmp_fd: int
    initramfs_fd: int | None
    memory_fd: int
    functions: tuple[PluggedFunction, ...]
    platform_socket: Path
    shell_sockets: tuple[Path, ...] = ()
    gdb_socket: Path | None = None


def command(
    qemu: Qemu,
    accelerator: str,
    kernel: Path,
    folder: Path,
    wiring: Wiring,
    cmdline: str,
    *,
    iommu: bool = False,
    posted_writes: bool = True,
    hotplug: bool = False,
) -> list[str]:
    """Return QEMU's argv for a run; ``folder`` names it in lists of processes.

    ``cmdline`` is the guest kernel's (`kernel_cmdline`). With ``iommu`` the exerciser is behind an
    Intel IOMMU, and the platform is not. Without ``posted_writes`` a CPU waits at each write to a
    BAR of the endpoint until that is done, so the time of its DMA depends on nothing else. With
    ``hotplug`` each device is in a slot of its own, from which it can be unplugged.
    """
    machine = ",".join(
        [
            "q35",
            f"accel={accelerator}",
            "memory-backend=ram",
            f"max-ram-below-4g={guest_memory.RAM_BELOW_4G}",
            *("smbus=off", "sata=off", "i8042=off", "vmport=off", "hpet=off"),
            *(("kernel-irqchip=split",) if iommu else ()),  # what remapped interrupts need
        ]
    )
    return [
        *qemu.command,
        *("-name", f"dma-rehearsal {folder}".replace(",", ",,")),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine, "-cpu", _CPU.get(accelerator, "max")),
        *("-smp", str(_CPUS), "-no-reboot"),
        *("-m", f"{guest_memory.RAM_SIZE // guest_memory.MIB}M"),
        # The harness's own file, which it reads; QEMU shares it by descriptor with the device
        # process.
        *("-object", _memory(wiring.memory_fd)),
        *("-kernel", str(kernel)),
        *_start(wiring),
        *("-append", cmdline),
        *("-chardev", f"socket,id=console,fd={wiring.console_fd}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=results,fd={wiring.results_fd}"),
        *("-device", f"virtio-serial-pci,bus=pcie.0,addr={_SERIAL:#x}"),
        *("-device", f"virtserialport,chardev=results,name={PORT_NAME}"),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}", "-qmp", "chardev:qmp"),
        *(_IOMMU if iommu else ()),
        *(_NATIVE_HOTPLUG if hotplug else ()),
        *_functions(wiring, iommu=iommu, posted_writes=posted_writes, hotplug=hotplug),
        *(() if iommu else _EDU),
        # A process of the guest that writes to its port stops the machine, with its page tables in
        # the CPU. The guest's kernel has no driver for it.
        *("-device", f"pvpanic,ioport={PANIC_PORT:#x}", "-action", "panic=pause"),
        *_shell_consoles(wiring),
        *(("-gdb", f"unix:{wiring.gdb_socket},server=on,wait=off") if wiring.gdb_socket else ()),
    ]


def _start(wiring: Wiring) -> tuple[str, ...]:
    """Return how the guest starts: from its initramfs, or from a state that QMP names later."""
    if wiring.initramfs_fd is None:
        # The firmware hands over an initramfs; a machine state has nothing of it.
        return "-incoming", "defer", "-S"
    return "-initrd", f"/proc/self/fd/{wiring.initramfs_fd}"


def _memory(fd: int) -> str:
    size = guest_memory.RAM_SIZE
    return f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{fd},share=on"


def _shell_consoles(wiring: Wiring) -> list[str]:
    """Return the consoles of shells; one without a socket takes what is written, and says nothing.

    ValueError for more sockets than consoles.
    """
    words = []
    for number, path in zip_longest(range(SHELLS), wiring.shell_sockets):
        if number is None:
            raise ValueError(f"{len(wiring.shell_sockets)} sockets for {SHELLS} shells")
        backend = f"socket,path={path},server=on,wait=off" if path else "null"
        words += ["-chardev", f"{backend},id=shell{number}"]
        words += ["-device", f"virtconsole,chardev=shell{number}"]
    return words


def _functions(wiring: Wiring, *, iommu: bool, posted_writes: bool, hotplug: bool) -> Iterator[str]:
    """Yield the words that plug in the device process's functions."""
    platform = ("soc", "0x0") if iommu else ("pcie.0", f"{_PLATFORM:#x}")
    words = [_vfio_user("platform", wiring.platform_socket, *platform)]
    if hotplug:
        for first in (each for each in wiring.functions if each.number == 0):
            place = f"{first.slot(iommu=iommu):#x}"
            port = f"pcie-root-port,id={_slot_bus(first.device)},bus=pcie.0,addr={place}"
            yield from ("-device", f"{port},chassis={_CHASSIS},slot={first.device + 1}")
    words += endpoint_devices(
        wiring.functions, iommu=iommu, posted_writes=posted_writes, hotplug=hotplug
    )
    for word in words:
        yield from ("-device", json.dumps(word))


def endpoint_devices(
    functions: Sequence[PluggedFunction],
    *,
    iommu: bool = False,
    posted_writes: bool = True,
    hotplug: bool = False,
) -> list[dict[str, Any]]:
    """Return the arguments of QEMU's ``device_add`` for each of these functions of endpoints."""
    found = []
    for each in functions:
        slot = f"{0 if hotplug else each.slot(iommu=iommu):#x}"
        alone = plugged_functions.is_alone(each, functions)
        bus = _slot_bus(each.device) if hotplug else "pcie.0"
        place = slot if alone else f"{slot}.{each.number}"
        device = _vfio_user(each.id, each.socket, bus, place)
        if not posted_writes:
            device["x-no-posted-writes"] = True
        if not alone:
            device["multifunction"] = True
        found.append(device)
    return found


def _slot_bus(device: int) -> str:
    return f"slot{device + 1}"


def _vfio_user(name: str, path: Path, bus: str, place: str) -> dict[str, Any]:
    socket = {"type": "unix", "path": str(path)}
    return {"driver": "vfio-user-pci", "id": name, "bus": bus, "addr": place, "socket": socket}
