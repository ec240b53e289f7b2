# SPDX-License-Identifier: Apache-2.0
"""A card with two functions and a device beside it, in a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import run_in

FOLDER = "tests/vm/functions"
ENDPOINT = "tests.vm.functions.copy_card:CopyCard,tests.vm.functions.copy_card:Beside"


def test_functions_of_a_card_and_a_device_beside_it(tmp_path: Path) -> None:
    """From user space, and by a kernel driver of both functions; the second run is restored."""
    for _ in range(2):
        done = run_in(
            SOURCE,
            tmp_path / "runs",
            *("--tests", f"{FOLDER}/guest_tests"),
            ENDPOINT=ENDPOINT,
            MODULE=f"{FOLDER}/drivers",
        )
        assert done.status == 0
        assert " 0 failed" in done.output
    assert done.start in ("booted", "collected")


@pytest.mark.full
def test_a_mapping_for_the_sibling_is_told_with_both_functions(tmp_path: Path) -> None:
    done = run_in(
        SOURCE,
        tmp_path / "runs",
        *("--tests", f"{FOLDER}/red_tests"),
        ENDPOINT=ENDPOINT,
        MODULE=f"{FOLDER}/drivers",
    )
    assert done.status == 1
    assert "back: a read of 1024 bytes at " in done.output
    assert "was refused: PROTECTION_FUNCTION" in done.output
    assert "the memory is granted to 00:04.0 alone, and 00:04.3 does this DMA" in done.output
    assert "map the buffer with the struct device of 00:04.3" in done.output


@pytest.mark.full
def test_functions_of_a_card_behind_an_iommu(tmp_path: Path) -> None:
    """They are in one group, and share their mappings."""
    done = run_in(
        SOURCE,
        tmp_path / "runs",
        *("--tests", f"{FOLDER}/guest_tests"),
        ENDPOINT=ENDPOINT,
        MODULE=f"{FOLDER}/drivers",
        IOMMU="intel",
    )
    assert done.status == 0
    assert " 0 failed" in done.output


def test_a_declaration_that_no_device_can_have_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from dma_rehearsal.device.endpoints import MultiFunction\n"
        "from tests.vm.functions.copy_card import Back\n"
        "class Card(MultiFunction):\n"
        "    functions = {1: Back}\n"
    )
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_one.py").write_text("def test_one(): pass\n")
    done = run_in(tmp_path, tmp_path / "runs", "--tests", "guest_tests", ENDPOINT="wrong:Card")
    assert done.status == 2
    assert "wrong.py:3: Card.functions has no function 0" in done.output + done.errors
