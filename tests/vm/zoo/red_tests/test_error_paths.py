# SPDX-License-Identifier: Apache-2.0
"""Mistakes that only a failure shows: each call that can fail does so once."""

from __future__ import annotations

import pytest
from device_file import pattern
from mistakes_file import MistakesFile

from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal

pytestmark = pytest.mark.rehearse(every_failure=True)


@pytest.mark.parametrize("mistake", ["error_not_checked", "leak_on_error_path"])
def test_error_path(driver: DriverRehearsal, mistake: str) -> None:
    with driver("mistakes", mistake=mistake), MistakesFile() as file:
        file.write(pattern(3000))


def test_error_path_of_the_right_driver(driver: DriverRehearsal) -> None:
    with driver("mistakes"), MistakesFile() as file:
        file.write(pattern(3000))
