# SPDX-License-Identifier: Apache-2.0
"""The guest's view, in a VM: a run of the harness whose attestations are the figures.

The device is the exerciser, which by a register becomes an echo loop on the same socket: register
accesses are measured by turns with and without it (goal 1.2).

A read costs what its echo does (0.94 to 1.01 times): the server spares itself a wake-up by looking
for the next message before it sleeps, which outweighs the 5 us of Python; the echo loop sleeps at
once. A server that did so as well took 1.22 to 1.31 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.guest_run import attestations
from tests.bench.registry import Row, at_most, benchmark

NAME = "in_guest"
TESTS = "tests/bench/guest_tests"  # from the checkout's root, as the harness wants it
ENDPOINT = "tests.bench.echo:Echo"


@benchmark("what a guest waits for; the wake-ups of QEMU and of its vCPU are the most of it")
def in_guest() -> Iterator[Row]:
    """Boot a VM and measure there. RuntimeError when the run fails."""
    found = attestations(TESTS, ENDPOINT=ENDPOINT)
    for row in found["promises"]:
        facts = row["facts"]
        measured = facts.get("measured", f"accelerator {found['accelerator']}")
        goal = at_most(float(facts["at most"])) if "at most" in facts else None
        yield Row(row["promise"], measured, float(row["attested"]), goal, row["asked"])
