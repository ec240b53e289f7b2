"""A fake client: memory in a bytearray, interrupts in a list."""

from __future__ import annotations

import pytest

from device.endpoints.exerciser import Exerciser
from device.trace import Trace
from tests.device.fakes import FakeClient


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def exerciser(client: FakeClient) -> Exerciser:
    """An exerciser whose guest has turned bus mastering on."""
    made = Exerciser(Trace())
    made.attach(client)
    made.region_write(7, 4, b"\x04\x00")
    return made
