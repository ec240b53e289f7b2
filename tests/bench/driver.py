# SPDX-License-Identifier: Apache-2.0
"""The DMA API's calls in a kernel driver: on the plain kernel, and with what the rig adds.

One guest measures all; each call's figure has the plain kernel's beside it. A pair of calls costs
one MMIO read each, whose batch the platform carries out meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.guest_run import attestations
from tests.bench.registry import Row, at_most, benchmark

NAME = "driver"
_GOALS_US = {"map and unmap, grants": 250.0, "map and unmap, cache model": 700.0}  # under TCG
_PLAIN = "plain kernel"


@benchmark("the DMA API's calls of a kernel driver, beside the plain kernel's")
def driver() -> Iterator[Row]:
    """Boot a VM and measure there. RuntimeError when the run fails."""
    found = attestations(
        "tests/bench/driver_tests",
        MODULE="tests/bench/drivers",
        ENDPOINT="examples.museum.engine:Engine",
    )
    figures = {
        row["promise"]: float(row["attested"]) / 1000
        for row in found["promises"]
        if row["asked"] == "ns"
    }
    for what, figure in figures.items():
        plain = figures[f"{what.partition(',')[0]}, {_PLAIN}"]
        measured = f"plain kernel {plain:.2f} us, accelerator {found['accelerator']}"
        goal = at_most(_GOALS_US[what]) if what in _GOALS_US else None
        if not what.endswith(_PLAIN):
            yield Row(what, measured, figure, goal, "us")
