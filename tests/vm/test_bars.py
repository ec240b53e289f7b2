# SPDX-License-Identifier: Apache-2.0
"""A guest meets BARs of each kind: above 4 GiB, of several parts, in I/O space, and a ROM."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import check, run

GUEST_TESTS = "tests/vm/bars/guest_tests"
ENDPOINT = "tests.vm.bars.bars_device:EachKind"


def test_each_kind(tmp_path: Path) -> None:
    done = run(tmp_path / "runs", "--tests", GUEST_TESTS, ENDPOINT=ENDPOINT)
    check(done, 0)
    assert "test_memory_above_4_gib[8589930496] PASSED" in done.output


@pytest.mark.full
def test_each_kind_where_the_firmware_has_placed_them(tmp_path: Path) -> None:
    """A guest that boots with the device; one that is restored finds it as after a hot-plug."""
    done = run(tmp_path / "runs", "--tests", GUEST_TESTS, ENDPOINT=ENDPOINT, STATE="no")
    check(done, 0)
    assert done.start == "cold"
