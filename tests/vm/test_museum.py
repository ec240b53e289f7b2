# SPDX-License-Identifier: Apache-2.0
"""Each piece of the museum: silent on the plain kernel, red with the rig, and green when mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.museum.__main__ import run
from examples.museum.pieces import Piece, all_pieces

# In each run of `make test`: a denied DMA, a report about a call, and bytes that a cache kept.
_GATE = ("wrong_direction", "unmap_size", "no_sync_for_cpu")


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(each, id=each.name, marks=() if each.name in _GATE else pytest.mark.full)
        for each in all_pieces()
    ],
)
def test_piece(piece: Piece, tmp_path: Path) -> None:
    assert run(piece, tmp_path).wrong(piece) == ""
