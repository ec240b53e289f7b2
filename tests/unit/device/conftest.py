# SPDX-License-Identifier: Apache-2.0
"""A fake client: memory in a bytearray, interrupts in a list."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import FakeClient, start


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def exerciser(client: FakeClient) -> Exerciser:
    """An exerciser that a guest's driver has started."""
    made = Exerciser(Trace())
    made.attach(client)
    start(made)
    return made
