# SPDX-License-Identifier: Apache-2.0
"""Reset, disconnects and reconnects: state that stays, and nothing that leaks."""

from __future__ import annotations

import errno
import os
import struct
import threading
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Command, Irq
from dma_rehearsal.device.vfio_user.server import VfioUserServer
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.settling import settled

RECONNECTS = 1000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_reset(client: RawClient) -> None:
    client.write32(0, Reg.DMA_LEN, 7)
    client.region_write(7, 4, struct.pack("<H", 6))
    assert client.call(Command.DEVICE_RESET) == b""
    assert client.region_read(7, 4, 2) == b"\0\0"
    client.decode()
    assert client.read32(0, Reg.DMA_LEN) == 0


def test_reset_with_a_payload_is_refused(client: RawClient) -> None:
    client.write32(0, Reg.DMA_LEN, 7)
    with pytest.raises(Refused) as refusal:
        client.call(Command.DEVICE_RESET, b"\0")
    assert refusal.value.errno == errno.EINVAL
    assert client.read32(0, Reg.DMA_LEN) == 7


def test_the_next_client_finds_the_devices_state_and_no_memory(
    server: Path, exerciser: Exerciser, memory: int
) -> None:
    with RawClient(server) as first:
        first.write32(0, Reg.DMA_LEN, 7)
        first.dma_map(0x10000, 4096, memory)
    settled(exerciser)
    with RawClient(server) as second:
        assert second.read32(0, Reg.DMA_LEN) == 7
        second.dma_map(0x10000, 4096, memory)


def test_reconnects_leak_nothing(server: Path, exerciser: Exerciser, memory: int) -> None:
    def once(kind: int) -> None:
        eventfds = [os.eventfd(0) for _ in range(4)]
        with RawClient(server) as client:
            client.set_irqs(4 | 32, Irq.MSIX, 0, 4, descriptors=eventfds)
            client.dma_map(0x10000, 4096, memory)
            if kind % 3 == 1:  # dies within a message, descriptors sent
                client.send_raw(struct.pack("<HHI", 1, Command.DMA_MAP, 48), [memory, memory])
            elif kind % 3 == 2:  # is thrown out
                client.send(Command.DMA_MAP, size=3, descriptors=[memory])
        for each in eventfds:
            os.close(each)
        settled(exerciser)

    def held() -> tuple[int, int]:
        with RawClient(server):  # accepted, so the client before it is closed altogether
            return descriptors(), mappings()

    for kind in range(3):
        once(kind)
    before = held()
    for kind in range(RECONNECTS):
        once(kind)
    after = held()
    assert after[0] == before[0]
    # The interpreter's own arenas may come and go.
    assert abs(after[1] - before[1]) <= 4


def test_refused_descriptors_are_closed(client: RawClient, memory: int) -> None:
    before = descriptors()
    for _ in range(20):
        with pytest.raises(Refused):
            client.dma_map(0x10001, 4096, memory)
        with pytest.raises(Refused):
            client.call(Command.DEVICE_GET_INFO, bytes(16), descriptors=[memory] * 3)
    assert descriptors() == before


def test_failure_of_the_model_is_answered(
    server: Path, exerciser: Exerciser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> bytes:
        raise RuntimeError("a bug in an endpoint")

    with RawClient(server) as client:
        monkeypatch.setattr(exerciser, "region_read", fail)
        with pytest.raises(Refused) as refusal:
            client.region_read(0, 0, 4)
        assert refusal.value.errno == errno.EIO
        monkeypatch.undo()
        assert client.read32(0, Reg.DMA_LEN) == 0


def test_path_in_use_is_an_error(server: Path) -> None:
    second = VfioUserServer(server, Exerciser(Trace()))
    with pytest.raises(OSError, match="in use"):
        second.listen()
    assert server.exists()


def test_close_from_another_thread_ends_an_idle_connection(tmp_path: Path) -> None:
    served = VfioUserServer(tmp_path / "socket", Exerciser(Trace()))
    served.listen()
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    with RawClient(tmp_path / "socket") as client:
        served.close()
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(EOFError):
            client.receive()
