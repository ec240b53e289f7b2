# SPDX-License-Identifier: Apache-2.0
"""A model with a bug: its client is answered, and the next one is served."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Command
from dma_rehearsal.device.vfio_user.model import Client
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.serving import serving
from tests.unit.vfio_user.settling import settled

BUG = "a bug in an endpoint"


class Failing(Exerciser):
    """Fails in one of the calls that a connection's life brings, as often as told."""

    def __init__(self, where: str, times: int) -> None:
        super().__init__(Trace())
        self.where, self.times = where, times

    def _fail(self, where: str) -> None:
        if where == self.where and self.times:
            self.times -= 1
            raise KeyError(BUG)

    def attach(self, client: Client) -> None:
        super().attach(client)
        self._fail("attach")

    def on_detach(self) -> None:
        super().on_detach()
        self._fail("on_detach")

    def on_unmap(self, address: int, length: int) -> None:
        super().on_unmap(address, length)
        self._fail("on_unmap")


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_end_of_a_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Failing("on_detach", 2)
    with serving(tmp_path / "socket", model) as path:
        for _ in range(3):
            with RawClient(path) as client:
                assert client.read32(0, Reg.DMA_LEN) == 0
            settled(model)
    assert len(errors(caplog)) == 2
    assert BUG in caplog.text


def test_beginning_of_a_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, nothing is left of it, and the same client may try again."""
    model = Failing("attach", 1)
    with serving(tmp_path / "socket", model) as path, RawClient(path, negotiate=False) as client:
        with pytest.raises(Refused) as refusal:
            client.version()
        assert refusal.value.errno == errno.EIO
        assert model.bus.client is None
        with pytest.raises(Refused) as refusal:
            client.region_read(0, Reg.DMA_LEN, 4)
        assert refusal.value.errno == errno.EINVAL, "before VERSION"
        client.version()
        client.decode()
        assert client.read32(0, Reg.DMA_LEN) == 0
    assert len(errors(caplog)) == 1


def test_both_ends_of_a_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Hopeless(Failing):
        def on_detach(self) -> None:
            raise KeyError(BUG)

    model = Hopeless("attach", 2)
    with serving(tmp_path / "socket", model) as path:
        for _ in range(2):
            with RawClient(path, negotiate=False) as client, pytest.raises(Refused) as refusal:
                client.version()
            assert refusal.value.errno == errno.EIO
        with RawClient(path) as client:
            assert client.read32(0, Reg.DMA_LEN) == 0
    assert len(errors(caplog)) == 5


def test_unmap(tmp_path: Path, memory: int, caplog: pytest.LogCaptureFixture) -> None:
    """The memory is gone, so the reply is the truth."""
    model = Failing("on_unmap", 2)
    with serving(tmp_path / "socket", model) as path, RawClient(path) as client:
        client.dma_map(0x10000, 4096, memory)
        client.dma_unmap(0x10000, 4096)
        assert model.bus.ranges() == []
        client.dma_map(0x10000, 4096, memory)
        client.dma_unmap(0, 0, flags=2)
        assert model.bus.ranges() == []
    assert len(errors(caplog)) == 2


def test_descriptors_of_a_connection_that_ends_in_a_bug(tmp_path: Path, memory: int) -> None:
    model = Failing("on_detach", 1)
    with serving(tmp_path / "socket", model) as path:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
        with RawClient(path) as client:
            client.dma_map(0x10000, 4096, memory)
            assert client.call(Command.DEVICE_RESET) == b""
        with RawClient(path, negotiate=False) as following:
            following.version()
            assert len(os.listdir("/proc/self/fd")) == before + 2  # noqa: PTH208
