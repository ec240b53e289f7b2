# SPDX-License-Identifier: Apache-2.0
"""What a run needs of a kernel's configuration, by name, and what each option is needed for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dma_rehearsal.host_harness.process.errors import UsageError

_SET = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)
_TITLE = re.compile(r"^# Linux/(\S+) .* Kernel Configuration$", re.MULTILINE)


class Use(StrEnum):
    """A reason for which a run needs an option."""

    RIG = "every run"
    PVH = "BOOT=pvh"
    IOMMU = "IOMMU=intel"
    DRIVER = "MODULE= and DRIVER="


def uses(*, pvh: bool, iommu: bool, driver: bool) -> set[Use]:
    """Return the uses of a run that enters its kernel by PVH, has an IOMMU, or tests a driver."""
    also = {Use.PVH: pvh, Use.IOMMU: iommu, Use.DRIVER: driver}
    return {Use.RIG, *(use for use, asked in also.items() if asked)}


@dataclass(frozen=True, slots=True)
class Need:
    """Options of which one must be set (or, with ``off``, all of them off), and what for."""

    names: tuple[str, ...]
    what_for: str
    use: Use = Use.RIG
    off: bool = False

    def is_met(self, config: Mapping[str, str]) -> bool:
        """Return whether a configuration meets it."""
        some = any(config.get(name) in ("y", "m") for name in self.names)
        return some != self.off


def _need(names: str, what_for: str, use: Use = Use.RIG, *, off: bool = False) -> Need:
    return Need(tuple(names.split("|")), what_for, use, off)


NEEDS = (
    _need("MODULES", "the rig's driver is a module"),
    _need("MODULE_SIG_FORCE", "the rig's driver has no signature", off=True),
    _need("BLK_DEV_INITRD", "the guest's files are an initramfs"),
    _need("RD_LZ4", "the initramfs is packed with lz4"),
    _need("BINFMT_ELF", "programs"),
    _need("BINFMT_SCRIPT", "the first process is a Python script"),
    _need("DEVTMPFS", "files in /dev"),
    _need("PROC_FS", "/proc, which the agent reads"),
    _need("SYSFS", "/sys, where the PCI functions are"),
    _need("TMPFS", "/run, and shared memory"),
    _need("SHMEM", "shared memory"),
    _need("MEMFD_CREATE", "shared memory"),
    _need("DEBUG_FS", "/sys/kernel/debug"),
    _need("FILE_LOCKING", "locks that processes of the guest share"),
    _need("UNIX", "sockets between processes of the guest"),
    _need("ADVISE_SYSCALLS", "madvise()"),
    _need("POSIX_TIMERS", "a test that hangs is interrupted"),
    _need("FUTEX", "threads of Python"),
    _need("EPOLL", "the agent waits for several files"),
    _need("EVENTFD", "interrupts reach programs as eventfds"),
    _need("PRINTK", "what the kernel says of a crash"),
    _need("SERIAL_8250_CONSOLE", "the console, on which the host sees a crash"),
    _need("UNIX98_PTYS", "shells in the guest"),
    _need("ACPI", "interrupts, and turning the machine off"),
    _need("PCI", "the devices"),
    _need("PCI_MSI", "the exerciser's interrupts"),
    _need("VIRTIO_PCI", "the channel to the host"),
    _need("VIRTIO_CONSOLE", "the channel to the host"),
    _need("UIO", "the carve-outs are UIO devices"),
    _need("X86_PAT", "mappings with a cache mode of their own"),
    _need("MTRR", "the memory types that the host compares"),
    _need("X86_MSR", "IA32_PAT and the MTRRs, as the guest has them"),
    _need("X86_IOPL_IOPERM", "a test stops the machine, for the host's look at page tables"),
    _need("PROC_PAGE_MONITOR", "/proc/self/pagemap: physical addresses of pages"),
    _need("PVH", "QEMU enters the kernel by PVH; BOOT=bzimage does without", Use.PVH),
    _need("INTEL_IOMMU", "the IOMMU", Use.IOMMU),
    _need("VFIO_PCI", "the exerciser is driven by VFIO", Use.IOMMU),
    _need("VFIO_IOMMU_TYPE1|IOMMUFD_VFIO_CONTAINER", "VFIO's mappings", Use.IOMMU),
    _need(
        "DMA_OPS|ARCH_HAS_DMA_OPS",
        "a driver's DMA calls go through operations of the rig; a kernel from 6.11 on has them "
        "with XEN or AMD_GART",
        Use.DRIVER,
    ),
    _need("MODULE_UNLOAD", "a driver is unloaded after its test", Use.DRIVER),
    _need("STACKTRACE", "reports name the driver's function and line", Use.DRIVER),
    _need("KALLSYMS", "reports name the driver's function and line", Use.DRIVER),
)


def read(path: Path) -> dict[str, str]:
    """Return the options that are set in a ``.config``, by their names without CONFIG_."""
    return dict(_SET.findall(path.read_text(errors="replace")))


def architecture(path: Path) -> str:
    """Return the architecture in the title of a ``.config``, such as "x86"; empty without one."""
    found = _TITLE.search(path.read_text(errors="replace"))
    return found[1] if found else ""


def lacking(config: Mapping[str, str], uses: Collection[Use]) -> list[Need]:
    """Return the needs of ``uses`` that a configuration does not meet."""
    return [need for need in NEEDS if need.use in uses and not need.is_met(config)]


def require(path: Path, name: str, uses: Collection[Use]) -> None:
    """Raise UsageError that lists all that a ``.config`` lacks; ``name`` is the kernel's.

    ``uses`` are what the run does with the kernel.
    """
    if not (missing := lacking(read(path), uses)):
        return
    lines = []
    for need in missing:
        options = " or ".join(f"CONFIG_{each}" for each in need.names)
        wrong = "is set" if need.off else "is not set"
        of_use = "" if need.use is Use.RIG else f" ({need.use})"
        lines.append(f"  {options} {wrong}: {need.what_for}{of_use}")
    enable = [f"-e {need.names[0]}" for need in missing if not need.off]
    disable = [f"-d {need.names[0]}" for need in missing if need.off]
    raise UsageError(
        f"KERNEL={name} is not configured for this rig:\n" + "\n".join(lines),
        f"in the kernel's sources: scripts/config --file {path} {' '.join(enable + disable)}, then "
        "make olddefconfig and make; an option that is off again afterwards needs another one "
        "first (docs/kernels.md)",
    )
