# SPDX-License-Identifier: Apache-2.0
"""The guest kernel's command line, and the parameters of a run that its agent gets by message."""

from __future__ import annotations

from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.host_harness.machine.guest_memory import CARVE_OUTS
from dma_rehearsal.host_harness.options.run_options import Options

# The scheduler uses the first CPU alone; a program asks for another one (sched_setaffinity). Where
# the CPUs of two VMs are threads on two CPUs of the host, a CPU that balances load spins on a lock
# whose holder does not run: up to a quarter of the CPU time under emulation.
ISOLATED = "isolcpus=domain,1"
# The addresses between RAM and PCI's configuration space (QEMU's q35 has that at 0xb0000000, and
# the firmware places BARs behind it). They are free, but the firmware's MTRRs make them write-back:
# without these words Linux places the BARs of functions here that it finds by a rescan.
_GAP = "memmap=0x90000000$0x20000000"
_AGENTS = "rehearsal."
# A container of Linux takes 65,535 mappings; with fewer, a test can reach the limit.
IOMMU = ("intel_iommu=on", "vfio_iommu_type1.dma_entry_limit=512")


def command_line(extra: list[str]) -> str:
    """Return the guest kernel's command line, ``extra`` parameters at its end."""
    parameters = [
        *("console=ttyS0", "quiet", "panic=-1", "reboot=acpi"),
        # Under emulation the checks that these leave out cost seconds and find nothing.
        *("tsc=reliable", "no_timer_check", "cryptomgr.notests", "random.trust_cpu=on"),
        # kdf108 tests itself all the same, and delays the boot until the initramfs is unpacked.
        "initcall_blacklist=crypto_kdf108_init",
        # The loops of a delay, by HZ=250 and a TSC of 4 GHz, so that none is too short: counting
        # them takes the second processor a quarter of its start, and then fails.
        "lpj=16000000",
        # The kernel's own bounce buffers, in 4 MiB (2,048 slabs of 2 KiB) in place of 64, which it
        # zeroes page by page: nothing of ours uses them, but a driver under test may.
        "swiotlb=2048",
        # A kernel with CONFIG_DMA_API_DEBUG would take the mappings of our module, which are made
        # on behalf of the driver's, for a second mapping of the same memory.
        "dma_debug=off",
        # init_on_alloc stays on, as in Debian's kernels: without it a page may hold the right bytes
        # of an earlier transfer, and a driver that moved nothing passes.
        *carve_out_parameters(),
        _GAP,
        *extra,
    ]
    return " ".join(parameters)


def carve_out_parameters() -> list[str]:
    """Return the parameters that reserve the carve-outs and name them to the driver."""
    reserved = [f"memmap={c.size:#x}${c.base:#x}" for c in CARVE_OUTS]
    listed = ",".join(f"{c.name}:{c.base:#x}:{c.size:#x}" for c in CARVE_OUTS)
    return [*reserved, f"dma_rehearsal.carveouts={listed}"]


def device_parameters(profile: Profile) -> list[str]:
    """Return the parameters that announce the device to the guest's tests."""
    return [
        f"rehearsal.device={profile.vendor:04x}:{profile.device:04x}",
        f"rehearsal.vectors={profile.vectors}",
        f"rehearsal.profile={profile.crc32:#010x}",
        f"rehearsal.coherent={int(profile.coherent)}",
        *limit_parameters(profile),
    ]


def limit_parameters(profile: Profile) -> list[str]:
    """Return the parameter that names the kinds of a device's limits; none without limits."""
    return [f"rehearsal.limits={','.join(profile.limits)}"] if profile.limits else []


def boot_parameters(options: Options, *, isolated: bool) -> list[str]:
    """Return the parameters of one boot: IOMMU, isolation, the driver's fault, the user's own.

    ``isolated``: programs in the guest choose their CPUs.
    """
    fault = options.fault
    return [
        *(IOMMU if options.iommu else ()),
        *((ISOLATED,) if isolated else ()),
        *((fault.parameter,) if fault and fault.parameter else ()),
        *(word for word in options.append if not word.startswith(_AGENTS)),
    ]


def agent_parameters(options: Options) -> list[str]:
    """Return the parameters that the agent gets when the guest goes on: the device, the user's own.

    A guest from a saved state gets those of its own run; the kernel's are the state's.
    """
    return [
        *(limit_parameters if options.endpoint else device_parameters)(options.profile),
        *(word for word in options.append if word.startswith(_AGENTS)),
    ]
