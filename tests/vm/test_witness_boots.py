# SPDX-License-Identifier: Apache-2.0
"""The host and the witness agree in guests that are set up in other ways, in whole VMs."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import build_cache, guest_image, qemu
from dma_rehearsal.host_harness.machine import guest_memory, kernel_cmdline
from dma_rehearsal.host_harness.machine.qmp import Monitor
from dma_rehearsal.host_harness.process.children import child
from dma_rehearsal.host_harness.witness import host_witness
from tests.runs import Run, run
from tests.vm import migration_stream

MODES = {
    *("kIOMapDefaultCache", "kIOMapInhibitCache", "kIOMapWriteThruCache"),
    *("kIOMapCopybackCache", "kIOMapWriteCombineCache"),
}
SELECTED = ("-q", "-k", "test_witnessed")
BOOT_LIMIT_S = 60
MIGRATION_LIMIT_S = 60


def seen(done: Run) -> list[dict[str, Any]]:
    """Return what the host was asked and saw; all that were asked for must have agreed."""
    assert done.status == 0
    kept = {row["facts"]["mode"] for row in done.attestations["promises"] if row["facts"]}
    assert kept == MODES
    lines = (done.folder / host_witness.LOG).read_text().splitlines()
    assert len(lines) >= len(MODES)
    return [json.loads(line) for line in lines]


def test_five_levels(tmp_path: Path) -> None:
    """A kernel that is entered as by a boot loader uses five levels where the CPU has them."""
    looks = seen(run(tmp_path, *SELECTED, BOOT="bzimage"))
    assert {look["seen"]["levels"] for look in looks} == {5}


def test_page_table_isolation(tmp_path: Path) -> None:
    """The CPU has another table than the kernel tells: the page behind it, that of the user."""
    done = run(tmp_path, *SELECTED, APPEND="pti=on")
    roots = {look["seen"]["root"] for look in seen(done)}
    assert all(root & 1 << 12 for root in roots)
    trace = (done.folder / "device-trace.jsonl").read_text().splitlines()
    walks = [each for each in map(json.loads, trace) if each["event"] == "witness"]
    assert roots <= {walk["root"] ^ 1 << 12 for walk in walks}


@pytest.fixture
def without_us(tmp_path: Path) -> Iterator[Monitor]:
    """A VM of the same kernel without the device, in which the kernel has come as far as it can."""
    found = qemu.find(print)
    kernel = guest_image.make(print).kernel
    console = tmp_path / "console"
    ours, theirs = socket.socketpair()
    argv = [
        *(*found.command, "-nodefaults", "-no-user-config", "-display", "none"),
        *(
            "-machine",
            f"q35,accel=tcg,max-ram-below-4g={guest_memory.RAM_BELOW_4G}",
            "-cpu",
            "max",
        ),
        *("-m", f"{guest_memory.RAM_SIZE // guest_memory.MIB}M", "-serial", f"file:{console}"),
        *("-kernel", str(kernel), "-append", kernel_cmdline.command_line(["panic=0"])),
        *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-qmp", "chardev:qmp"),
    ]
    with child(
        argv,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        environment=found.full_environment(),
    ):
        theirs.close()
        monitor = Monitor(ours, tmp_path / "qmp.log")
        try:
            monitor.connect(10)
            end = time.monotonic() + BOOT_LIMIT_S
            # It has no initramfs to go on with, and stays where it is.
            while b"Kernel panic" not in console.read_bytes():
                assert time.monotonic() < end, console.read_text(errors="replace")
                time.sleep(0.1)
            yield monitor
        finally:
            monitor.close()
            build_cache.release()


@pytest.mark.full
def test_pat_and_mtrrs_are_what_a_host_can_read_elsewhere(
    without_us: Monitor, tmp_path: Path
) -> None:
    """The guest's word on them, against the state of a CPU that the same kernel has set up."""
    stream = tmp_path / "stream"
    without_us.command("migrate", uri=f"file:{stream}")
    end = time.monotonic() + MIGRATION_LIMIT_S
    while (status := without_us.command("query-migrate").get("status")) != "completed":
        assert status != "failed"
        assert time.monotonic() < end
        time.sleep(0.1)
    fields = migration_stream.fields(stream.read_bytes(), "cpu")
    names = {
        "pat": "env.pat",
        "def_type": "env.mtrr_deftype",
        "fixed": "env.mtrr_fixed",
        "bases": "env.mtrr_var.base",
        "masks": "env.mtrr_var.mask",
    }
    cpu = {name: words(fields[field]) for name, field in names.items()}

    done = run(tmp_path / "runs", "-q", "-k", "test_driver_and_host_agree and Inhibit")
    assert done.status == 0
    (line,) = (done.folder / host_witness.LOG).read_text().splitlines()
    asked = json.loads(line)["asked"]
    assert [asked["pat"]] == cpu["pat"]
    assert [asked["def_type"]] == cpu["def_type"]
    assert asked["fixed"] == cpu["fixed"]
    assert asked["ranges"] == list(map(list, zip(cpu["bases"], cpu["masks"], strict=True)))


def words(data: bytes) -> list[int]:
    """Return big-endian words of 64 bits."""
    return [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]
