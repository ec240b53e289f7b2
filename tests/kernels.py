# SPDX-License-Identifier: Apache-2.0
"""Try the rig on each kernel: its modules build without a warning, and tests pass in the guest.

    python -m tests.kernels [--kernel NAME]... [--run NAME]...

Each of `RUNS` is one run of the harness on each of `KERNELS`; what is to be tested on several
kernels joins that list. All are tried, and a table tells how each ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.host_harness.environment import guest_driver, guest_image
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.errors import HarnessError

KERNELS = ("bookworm", "bookworm-backports", "trixie", "trixie-backports")
"""Linux 6.1, twice 6.12, and the newest that Debian's mirrors offer for a release."""
_NEWER = ("trixie", "trixie-backports")
_BUILD = "build"


@dataclass(frozen=True, slots=True)
class GuestRun:
    """A run of a Python module, the harness's own by default, with variables beside KERNEL.

    ``kernels``: the only ones on which it runs; empty: all.
    """

    name: str
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    module: tuple[str, ...] = ("dma_rehearsal.host_harness", "test")
    kernels: tuple[str, ...] = ()


_CALLS = ("--tests", "tests/vm/dma_ops/guest_tests")
_CALLS_DRIVER = {
    "MODULE": "tests/vm/dma_ops/drivers",
    "ENDPOINT": "tests.vm.zoo.ring_device:RingDevice",
}
_ZOO_DRIVERS = {**_CALLS_DRIVER, "MODULE": "tests/vm/zoo/drivers"}
_NVME = ("--tests", "examples/nvme/guest_tests", "-k", "not 30s")
_NVME_DRIVER = {
    "DRIVER": "nvme",
    "ENDPOINT": "examples.nvme.controller:Nvme",
    "PACKAGES": "fio,e2fsprogs",
}
_VIRTIO = ("--tests", "examples/virtio_blk/guest_tests")
_VIRTIO_DRIVER = {
    "DRIVER": "virtio_pci",
    "KERNEL_MODULES": "virtio_blk",
    "ENDPOINT": "examples.virtio_blk.blk_device:VirtioBlk",
}
_LINES = ("--tests", "tests/vm/lines/guest_tests")
_LINES_DRIVER = {
    "MODULE": "tests/vm/lines/drivers",
    "ENDPOINT": "tests.vm.lines.lines_device:Lines",
}
RUNS = (
    GuestRun("suite"),
    GuestRun("iommu", variables={"IOMMU": "intel"}),
    GuestRun("calls", _CALLS, _CALLS_DRIVER),
    GuestRun("calls behind an IOMMU", _CALLS, {**_CALLS_DRIVER, "IOMMU": "intel"}),
    GuestRun("zoo", ("--tests", "tests/vm/zoo/guest_tests"), _ZOO_DRIVERS),
    GuestRun("nvme", _NVME, _NVME_DRIVER),
    GuestRun("virtio", _VIRTIO, _VIRTIO_DRIVER),
    # The whole VMs of the other stages run these on the first kernel.
    GuestRun("nvme behind an IOMMU", _NVME, {**_NVME_DRIVER, "IOMMU": "intel"}, kernels=_NEWER),
    GuestRun(
        "virtio behind an IOMMU", _VIRTIO, {**_VIRTIO_DRIVER, "IOMMU": "intel"}, kernels=_NEWER
    ),
    GuestRun(
        "functions",
        ("--tests", "tests/vm/functions/guest_tests"),
        {
            "MODULE": "tests/vm/functions/drivers",
            "ENDPOINT": (
                "tests.vm.functions.copy_card:CopyCard,tests.vm.functions.copy_card:Beside"
            ),
        },
        kernels=_NEWER,
    ),
    # Only interrupt remapping gives a function several MSI messages on x86.
    GuestRun(
        "lines", (*_LINES, "-k", "not intx"), {**_LINES_DRIVER, "IOMMU": "intel"}, kernels=_NEWER
    ),
    GuestRun(
        "lines by INTx",
        (*_LINES, "-k", "intx"),
        {**_LINES_DRIVER, "APPEND": "pci=nomsi"},
        kernels=_NEWER,
    ),
    GuestRun(
        "bars",
        ("--tests", "tests/vm/bars/guest_tests"),
        {"ENDPOINT": "tests.vm.bars.bars_device:EachKind"},
        kernels=_NEWER,
    ),
    # Many short guests: each but the first starts from a saved state.
    GuestRun(
        "museum",
        variables={"STATE": "booted"},
        module=("examples.museum",),
        kernels=("trixie-backports",),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended on a kernel; ``problem`` is empty when it passed."""

    kernel: str
    run: str
    seconds: float
    problem: str = ""

    def line(self) -> str:
        """Return its line in the table."""
        return f"  {self.kernel:20} {self.run:22} {self.seconds:6.0f} s  {self.problem or 'passed'}"


def build(kernel: str) -> str:
    """Build the rig's modules and the image; return what is wrong, empty when nothing is."""
    try:
        image = guest_image.make(kernel, lambda text: print(f"  {text}", flush=True))
    except HarnessError as error:
        return str(error)
    warnings = "\n".join(guest_driver.warnings(image.kernel_tree))
    return f"the compiler warned:\n{warnings}" if warnings else ""


def run(kernel: str, each: GuestRun) -> str:
    """Run the harness; return what is wrong, empty when nothing is."""
    # States of so many kernels would push those of daily work out of the cache.
    variables = {"STATE": "no", **each.variables, "KERNEL": kernel}
    command = [sys.executable, "-m", *each.module, *each.arguments]
    environment = {**os.environ, **variables}
    status = subprocess.run(command, cwd=SOURCE, env=environment, check=False).returncode
    return f"status {status}" if status else ""


def try_all(
    kernels: Sequence[str],
    runs: Sequence[GuestRun],
    builder: Callable[[str], str] = build,
    runner: Callable[[str, GuestRun], str] = run,
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Try the runs on each kernel whose modules build; return how each ended."""
    results: list[Result] = []

    def note(kernel: str, name: str, step: Callable[[], str]) -> bool:
        print(f"\n{kernel}: {name}", flush=True)
        start = clock()
        results.append(Result(kernel, name, problem=step(), seconds=clock() - start))
        return not results[-1].problem

    for kernel in kernels:
        if note(kernel, _BUILD, lambda kernel=kernel: builder(kernel)):  # type: ignore[misc]
            for each in (run for run in runs if kernel in (run.kernels or (kernel,))):
                note(kernel, each.name, lambda kernel=kernel, each=each: runner(kernel, each))  # type: ignore[misc]
    return results


def main(arguments: Sequence[str]) -> int:
    """Try what the command line names; return 0 when all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("--kernel", action="append", help=f"of {', '.join(KERNELS)}, or another")
    parser.add_argument("--run", action="append", choices=[each.name for each in RUNS])
    parsed = parser.parse_args(arguments)
    runs = [each for each in RUNS if parsed.run is None or each.name in parsed.run]
    results = try_all(parsed.kernel or KERNELS, runs)
    print("\n" + "\n".join(each.line() for each in results), flush=True)
    return 1 if any(each.problem for each in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
