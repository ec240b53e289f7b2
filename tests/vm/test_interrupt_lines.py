# SPDX-License-Identifier: Apache-2.0
"""Lines of a device under a kernel driver: MSI-X, one and several MSI messages, and INTx."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import run_in

RUN = {
    "ENDPOINT": "tests.vm.lines.lines_device:Lines",
    "MODULE": "tests/vm/lines/drivers",
}
TESTS = ("--tests", "tests/vm/lines/guest_tests")


@pytest.mark.parametrize(
    ("select", "settings"),
    [
        # Only interrupt remapping gives a function several MSI messages on x86.
        pytest.param("not intx", {"IOMMU": "intel"}, id="messages"),
        pytest.param("intx", {"APPEND": "pci=nomsi"}, id="intx", marks=pytest.mark.full),
    ],
)
def test_each_line_is_served_once(tmp_path: Path, select: str, settings: dict[str, str]) -> None:
    done = run_in(SOURCE, tmp_path / "runs", *TESTS, "-k", select, **RUN, **settings)
    assert done.status == 0, done.output
