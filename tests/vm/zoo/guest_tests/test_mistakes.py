# SPDX-License-Identifier: Apache-2.0
"""One ordinary driver with one mistake: each is told by its kind, and by nothing else."""

from __future__ import annotations

import pytest
from mistakes_file import MistakesFile

from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal


@pytest.mark.parametrize("narrow", [0, 1], ids=["64-bit", "32-bit"])
def test_none(driver: DriverRehearsal, narrow: int) -> None:
    with driver("mistakes", narrow=narrow), MistakesFile() as file:
        file.use_everything()
