# SPDX-License-Identifier: Apache-2.0
"""The bench's echo loop: on and off by a register, on one socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import server
from tests.bench.echo import Echo
from tests.unit.vfio_user.client import RawClient


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawClient]:
    """A client of an endpoint that can echo."""
    monkeypatch.setattr(server, "_Session", server._Session)  # what Echo puts there goes again
    serving = server.VfioUserServer(tmp_path / "socket", Echo(Trace()))
    serving.listen()
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    with RawClient(tmp_path / "socket") as found:
        yield found
    serving.close()
    thread.join(5)
    assert not thread.is_alive()


def test_what_is_echoed_is_not_dispatched(client: RawClient) -> None:
    for _ in range(2):
        client.write32(0, Reg.DMA_LEN, 64)
        assert client.read32(0, Reg.DMA_LEN) == 64
        client.write32(0, Reg.VDM_CTL, 1)
        assert client.read32(0, Reg.DMA_LEN) == 0, "what was made before"
        client.write32(0, Reg.DMA_LEN, 65)
        client.write32(0, Reg.VDM_CTL, 0)
        assert client.read32(0, Reg.DMA_LEN) == 64, "the device has not seen the write"
