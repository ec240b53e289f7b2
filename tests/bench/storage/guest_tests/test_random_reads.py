# SPDX-License-Identifier: Apache-2.0
"""4 KiB random reads of the NVMe example, by turns with those of QEMU's own controller."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.guest.testkit import Attest, DriverRehearsal

QEMUS_OWN = "0x1b36", "0x0010"  # vendor and device
ROUNDS, SECONDS, LIMIT_S = 3, 3, 60


def is_first(namespace: Path) -> bool:
    return (namespace / "nsid").read_text() == "1\n"


def disk(function: Path) -> Path:
    """Return the first namespace of a function, which comes after the probe."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := [each for each in function.glob("nvme/nvme*/nvme*n*") if is_first(each)]):
        assert time.monotonic() < deadline, f"{function}: there is no disk"
        time.sleep(0.1)
    # A path of a namespace that may have several, such as nvme1c1n1, has no file of its own.
    return Path("/dev", re.sub(r"c\d+", "", found[0].name))


@contextmanager
def qemus_own() -> Iterator[Path]:
    """Bind QEMU's controller, which the kit has kept from the driver; yield its folder."""
    (found,) = (
        each
        for each in Path("/sys/bus/pci/devices").iterdir()
        if ((each / "vendor").read_text().strip(), (each / "device").read_text().strip())
        == QEMUS_OWN
    )
    before = (found / "driver_override").read_text()
    (found / "driver_override").write_text("nvme")
    Path("/sys/bus/pci/drivers_probe").write_text(found.name)
    try:
        yield found
    finally:
        (found / "driver" / "unbind").write_text(found.name)
        (found / "driver_override").write_text(before)


def reads_a_second(device: Path, depth: int) -> float:
    command = [
        *("fio", "--name=reads", f"--filename={device}", "--direct=1", "--rw=randread"),
        *("--ioengine=libaio", f"--iodepth={depth}", "--bs=4k", "--size=8m"),
        *("--time_based", f"--runtime={SECONDS}", "--output-format=json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(job["read"]["iops"])


@pytest.mark.rehearse(plain=True)
def test_random_reads(driver: DriverRehearsal, attest: Attest) -> None:
    with driver("nvme") as bound, qemus_own() as other:
        disks = disk(bound.folder), disk(other)
        for depth in 1, 32:
            rounds = [[reads_a_second(each, depth) for each in disks] for _ in range(ROUNDS)]
            ours, theirs = (statistics.median(each) for each in zip(*rounds, strict=True))
            attest(
                f"random reads, queue depth {depth}",
                asked="ratio",
                attested=f"{ours / theirs:.3f}",
                kept=ours > 0,
                facts={"measured": f"{ours:.0f} a second, QEMU's own {theirs:.0f}"},
            )
