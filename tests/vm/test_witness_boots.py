# SPDX-License-Identifier: Apache-2.0
"""The host and the witness agree in guests that are set up in other ways, in whole VMs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.witness import host_witness
from tests.comparison import COLD
from tests.runs import Run, run

MODES = {
    *("kIOMapDefaultCache", "kIOMapInhibitCache", "kIOMapWriteThruCache"),
    *("kIOMapCopybackCache", "kIOMapWriteCombineCache"),
}
SELECTED = ("-q", "-k", "test_witnessed")


def seen(done: Run) -> list[dict[str, Any]]:
    """Return what the host was asked and saw; all must have agreed, by the registers in QEMU."""
    assert done.status == 0
    kept = {row["facts"]["mode"] for row in done.attestations["promises"] if row["facts"]}
    assert kept == MODES
    lines = (done.folder / host_witness.LOG).read_text().splitlines()
    assert len(lines) >= len(MODES)
    looks = [json.loads(line) for line in lines]
    for look in looks:
        assert look["seen"]["by"] == host_witness.QEMU
        assert look["registers"]["pat"] == look["asked"]["pat"] == look["seen"]["pat"]
    return looks


def test_five_levels(tmp_path: Path) -> None:
    """A kernel that is entered as by a boot loader uses five levels where the CPU has them."""
    done = run(tmp_path, *SELECTED, BOOT="bzimage")
    assert {look["seen"]["levels"] for look in seen(done)} == {5}
    assert done.start == COLD


def test_page_table_isolation(tmp_path: Path) -> None:
    """The CPU has another table than the kernel tells: the page behind it, that of the user."""
    done = run(tmp_path, *SELECTED, APPEND="pti=on")
    assert done.start == COLD, "a word for the kernel"
    roots = {look["seen"]["root"] for look in seen(done)}
    assert all(root & 1 << 12 for root in roots)
    trace = (done.folder / "device-trace.jsonl").read_text().splitlines()
    walks = [each for each in map(json.loads, trace) if each["event"] == "witness"]
    assert roots <= {walk["root"] ^ 1 << 12 for walk in walks}
