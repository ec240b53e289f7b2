# SPDX-License-Identifier: Apache-2.0
"""The NVMe example beside QEMU's own controller, in the same guest, by the same driver and fio.

QEMU's own has a drive without storage. It gets into the machine by a QEMU that adds the two to its
command line.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dma_rehearsal.host_harness.environment import qemu
from tests.bench.guest_run import attestations
from tests.bench.registry import Row, benchmark

NAME = "nvme"
_DRIVE = f"driver=null-co,node-name=nothing,size={64 << 20},read-zeroes=on"
_EXTRA = "-blockdev", _DRIVE, "-device", "nvme,drive=nothing,serial=bench,bus=pcie.0,addr=0x1d"


def with_nvme(folder: Path) -> Path:
    """Return a program that is the harness's QEMU, with a controller more in each machine."""
    found = qemu.find(lambda _: None)
    variables = [f"{name}={value}" for name, value in found.environment.items()]
    start = shlex.join(["exec", "env", *variables, *found.command])
    program = folder / "qemu"
    program.write_text(
        f"""#!/bin/sh
case " $* " in
*" -kernel "*) {start} "$@" {shlex.join(_EXTRA)} ;;
*) {start} "$@" ;;
esac
"""
    )
    program.chmod(0o755)
    return program


@benchmark("4 KiB random reads a second of the NVMe example, as a ratio to QEMU's own")
def nvme() -> Iterator[Row]:
    """Boot a VM and measure there. RuntimeError when the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        found = attestations(
            "tests/bench/storage/guest_tests",
            DRIVER="nvme",
            ENDPOINT="examples.nvme.controller:Nvme",
            PACKAGES="fio",
            QEMU=str(with_nvme(Path(folder))),
            STATE="no",
        )
    for row in found["promises"]:
        if row["asked"] == "ratio":
            measured = f"{row['facts']['measured']}, accelerator {found['accelerator']}"
            yield Row(row["promise"], measured, float(row["attested"]), None)
