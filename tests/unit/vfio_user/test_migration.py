# SPDX-License-Identifier: Apache-2.0
"""Migration: the states and their arcs, and the state's way out and in."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints import DmaRefused
from dma_rehearsal.device.vfio_user import dma_messages
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import (
    Command,
    DeviceState,
    Feature,
    FeatureFlag,
    SetIrqsFlag,
)
from dma_rehearsal.device.vfio_user.migration import Migration, path
from examples.timer import TimerDevice
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, SHARED, STATE, Prober, Reg
from tests.unit.vfio_user.serving import serving

S = DeviceState
# By hand, from the specification's arcs and its two rules: shortest, no saving state within.
WAYS: dict[tuple[DeviceState, DeviceState], list[DeviceState]] = {
    (S.RUNNING, S.RUNNING): [],
    (S.RUNNING, S.STOP): [S.STOP],
    (S.RUNNING, S.STOP_COPY): [S.STOP, S.STOP_COPY],
    (S.RUNNING, S.RESUMING): [S.STOP, S.RESUMING],
    (S.RUNNING, S.PRE_COPY): [S.PRE_COPY],
    (S.STOP, S.STOP): [],
    (S.STOP, S.RUNNING): [S.RUNNING],
    (S.STOP, S.STOP_COPY): [S.STOP_COPY],
    (S.STOP, S.RESUMING): [S.RESUMING],
    (S.STOP, S.PRE_COPY): [S.RUNNING, S.PRE_COPY],
    (S.STOP_COPY, S.STOP_COPY): [],
    (S.STOP_COPY, S.STOP): [S.STOP],
    (S.STOP_COPY, S.RUNNING): [S.STOP, S.RUNNING],
    (S.STOP_COPY, S.RESUMING): [S.STOP, S.RESUMING],
    (S.RESUMING, S.RESUMING): [],
    (S.RESUMING, S.STOP): [S.STOP],
    (S.RESUMING, S.RUNNING): [S.STOP, S.RUNNING],
    (S.RESUMING, S.STOP_COPY): [S.STOP, S.STOP_COPY],
    (S.RESUMING, S.PRE_COPY): [S.STOP, S.RUNNING, S.PRE_COPY],
    (S.PRE_COPY, S.PRE_COPY): [],
    (S.PRE_COPY, S.RUNNING): [S.RUNNING],
    (S.PRE_COPY, S.STOP_COPY): [S.STOP_COPY],
    (S.PRE_COPY, S.STOP): [S.RUNNING, S.STOP],
    (S.PRE_COPY, S.RESUMING): [S.RUNNING, S.STOP, S.RESUMING],
}
CONTENT = bytes(range(STATE))


@pytest.mark.parametrize("start", S)
@pytest.mark.parametrize("end", S)
def test_ways(start: DeviceState, end: DeviceState) -> None:
    way = path(start, end)
    assert (None if way is None else list(way)) == WAYS.get((start, end))


def refused(client: RawClient, state: int) -> int:
    data = wire.MigState(state, -1).pack()
    with pytest.raises(Refused) as refusal:
        client.feature(FeatureFlag.SET | Feature.MIG_DEVICE_STATE, data)
    return refusal.value.errno


@pytest.mark.parametrize("state", [0, 5, 7, 8, 9, 0xFFFF_FFFF])
def test_state_that_cannot_be_asked_for(probed: RawClient, state: int) -> None:
    assert refused(probed, state) == errno.EINVAL
    assert probed.state() == S.RUNNING


def test_stop_copy_to_pre_copy_is_refused(probed: RawClient) -> None:
    probed.set_state(S.STOP_COPY)
    assert refused(probed, S.PRE_COPY) == errno.EINVAL
    assert probed.state() == S.STOP_COPY


@pytest.mark.parametrize("state", [S.STOP, S.RUNNING, S.STOP_COPY, S.RESUMING, S.PRE_COPY])
def test_the_state_is_told(probed: RawClient, state: DeviceState) -> None:
    probed.set_state(state)
    assert probed.state() == state


def test_the_device_is_stopped_and_goes_on(probed: RawClient, prober: Prober) -> None:
    for state in (S.PRE_COPY, S.STOP_COPY, S.STOP, S.RUNNING, S.STOP, S.RUNNING, S.PRE_COPY):
        probed.set_state(state)
    assert prober.phases == ["stopped", "running", "stopped", "running"]


@pytest.mark.parametrize("state", [S.STOP, S.STOP_COPY, S.RESUMING])
def test_where_it_stands_still_no_access_starts_a_dma(
    probed: RawClient, prober: Prober, memory: int, state: DeviceState
) -> None:
    prober.address = 0
    probed.dma_map(0, 4096, memory)
    probed.set_state(state)
    probed.write32(BUFFER, Reg.GO, 1 << 31 | 16)
    assert (prober.outcome, prober.done) == (None, 0)
    assert os.pread(memory, 16, 0) == bytes(16)
    probed.call(Command.DEVICE_RESET)
    probed.write32(BUFFER, Reg.GO, 1 << 31 | 16)
    assert os.pread(memory, 16, 0) == bytes(range(16))


@pytest.mark.parametrize("state", [S.STOP, S.STOP_COPY, S.RESUMING])
@pytest.mark.parametrize("before", [S.RUNNING, S.PRE_COPY])
def test_a_dma_by_messages_is_done_before_the_device_is_stopped(
    probed: RawClient, prober: Prober, before: DeviceState, state: DeviceState
) -> None:
    prober.by_message = True
    probed.set_state(before)
    probed.write32(BUFFER, Reg.GO, 1 << 31 | 3 << 16)
    for _ in range(3):
        header, access, _ = probed.receive_command(Command.DMA_WRITE)
        assert refused(probed, state) == errno.EBUSY
        assert probed.state() in (S.RUNNING, before)
        probed.answer(header, access.pack())
    probed.set_state(state)
    assert (prober.outcome, prober.done) == (b"", 1)
    assert prober.phases == ["stopped"]


def test_a_client_that_does_not_answer_can_stop_the_device_later(
    probed: RawClient, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 0.0)
    prober.by_message = True
    probed.write32(BUFFER, Reg.GO, 1 << 31 | 16)
    probed.receive_command(Command.DMA_WRITE)
    while probed.read32(BUFFER, Reg.BUSY):
        pass
    probed.set_state(S.STOP)
    assert isinstance(prober.outcome, DmaRefused)


def test_a_reset_needs_no_end_of_a_dma(probed: RawClient, prober: Prober) -> None:
    prober.by_message = True
    probed.write32(BUFFER, Reg.GO, 1 << 31 | 16)
    header, access, _ = probed.receive_command(Command.DMA_WRITE)
    probed.call(Command.DEVICE_RESET)
    probed.set_state(S.STOP)
    probed.answer(header, access.pack())
    assert (probed.state(), prober.done) == (S.STOP, 0)


def test_the_next_client_finds_the_state_and_a_reset_ends_it(
    tmp_path: Path, prober: Prober
) -> None:
    with serving(tmp_path / "socket", prober) as path:
        with RawClient(path) as first:
            first.set_state(S.STOP)
        with RawClient(path) as following:
            assert following.state() == S.STOP
            following.call(Command.DEVICE_RESET)
            assert following.state() == S.RUNNING
    assert prober.phases == ["stopped", "running"]


def test_the_example_stands_still(tmp_path: Path, memory: int) -> None:
    """Its timer, its DMA and its interrupt: none while stopped, all once it runs."""
    device, due = TimerDevice(), struct.pack("<Q", 1)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    with serving(tmp_path / "socket", device) as path, RawClient(path) as client:
        client.set_irqs(
            SetIrqsFlag.DATA_EVENTFD | SetIrqsFlag.ACTION_TRIGGER, 0, 0, 1, b"", [eventfd]
        )
        client.dma_map(0, 4096, None)
        client.dma_map(0x1000, 4096, memory)
        client.set_state(S.STOP)
        client.region_write(0, 0, due)
        assert client.region_read(0, 0, 8) == bytes(8)
        assert client.state() == S.STOP
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd)
        client.set_state(S.RESUMING)
        client.migration_write(bytes(0x3000) + due)
        client.set_state(S.STOP)
        assert device.timers.next_deadline() is None
        client.set_state(S.RUNNING)
        header, access, data = client.receive_command(Command.DMA_WRITE)
        assert os.eventfd_read(eventfd) == 1
        client.answer(header, access.pack())
        assert (access.address, data[:1], os.pread(memory, 1, 0)) == (0, b"A", b"A")
    device.shared(1).close()
    os.close(eventfd)


def test_out_and_in(probed: RawClient) -> None:
    probed.region_write(SHARED, 0, CONTENT)
    probed.set_state(S.STOP_COPY)
    out = b""
    while piece := probed.migration_read(10):
        out += piece
    assert out == CONTENT
    assert probed.migration_read(10) == b""
    probed.set_state(S.RUNNING)
    probed.region_write(SHARED, 0, bytes(STATE))
    probed.set_state(S.RESUMING)
    for start in range(0, STATE, 7):
        probed.migration_write(out[start : start + 7])
    probed.set_state(S.RUNNING)
    assert probed.region_read(SHARED, 0, STATE) == CONTENT


def test_a_reply_is_as_long_as_what_was_asked_for(probed: RawClient) -> None:
    """libvfio-user quirk: its client takes a shorter reply as the end of the connection."""
    probed.set_state(S.STOP_COPY)
    reply = probed.call(Command.MIG_DATA_READ, wire.MigData(8 + 100, 100).pack())
    assert (len(reply), wire.MigData.unpack(reply)) == (108, wire.MigData(8 + STATE, STATE))


def test_what_pre_copy_sent_comes_before_and_is_overridden(probed: RawClient) -> None:
    """A client that sends both passes, and one that sends the last alone, are both right."""
    probed.region_write(SHARED, 0, b"\1" * STATE)
    probed.set_state(S.PRE_COPY)
    first = probed.migration_read(STATE // 2)
    probed.region_write(SHARED, 0, CONTENT)
    probed.set_state(S.STOP_COPY)
    second = probed.migration_read(STATE)
    probed.set_state(S.RESUMING)
    probed.migration_write(first + second)
    probed.set_state(S.STOP)
    assert probed.region_read(SHARED, 0, STATE) == CONTENT


@pytest.mark.parametrize("length", [0, 1, STATE - 1])
def test_a_state_that_is_cut_short(probed: RawClient, length: int) -> None:
    probed.region_write(SHARED, 0, b"\2" * STATE)
    probed.set_state(S.RESUMING)
    probed.migration_write(CONTENT[:length])
    assert refused(probed, S.STOP) == errno.EINVAL
    assert probed.state() == S.RESUMING
    assert probed.region_read(SHARED, 0, STATE) == b"\2" * STATE, "loaded in part"
    probed.migration_write(CONTENT[length:])
    probed.set_state(S.STOP)


def test_a_state_that_the_device_refuses(probed: RawClient) -> None:
    probed.set_state(S.RESUMING)
    probed.migration_write(b"\xff" * STATE)
    assert refused(probed, S.STOP) == errno.EINVAL
    assert probed.state() == S.ERROR
    for state in S:
        assert refused(probed, state) == errno.EINVAL
    probed.call(Command.DEVICE_RESET)
    assert probed.state() == S.RUNNING


@pytest.mark.parametrize("state", [S.RUNNING, S.STOP, S.RESUMING])
def test_reading_in_the_wrong_state(probed: RawClient, state: DeviceState) -> None:
    probed.set_state(state)
    with pytest.raises(Refused) as refusal:
        probed.migration_read(4)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("state", [S.RUNNING, S.STOP, S.STOP_COPY, S.PRE_COPY])
def test_writing_in_the_wrong_state(probed: RawClient, state: DeviceState) -> None:
    probed.set_state(state)
    with pytest.raises(Refused) as refusal:
        probed.migration_write(b"data")
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("argsz", "size"), [(0, 0), (7, 0), (8, 1), (11, 4), (1 << 31, (1 << 20) + 1), (0, 0xFFFF_FFFF)]
)
def test_a_read_that_does_not_fit(probed: RawClient, argsz: int, size: int) -> None:
    probed.set_state(S.STOP_COPY)
    with pytest.raises(Refused) as refusal:
        probed.call(Command.MIG_DATA_READ, wire.MigData(argsz, size).pack())
    assert refusal.value.errno == errno.EINVAL
    assert len(probed.migration_read(STATE)) == STATE, "nothing was taken"


@pytest.mark.parametrize("size", [0, 3, 5, 0xFFFF_FFFF])
def test_a_write_of_another_size(probed: RawClient, size: int) -> None:
    probed.set_state(S.RESUMING)
    with pytest.raises(Refused) as refusal:
        probed.call(Command.MIG_DATA_WRITE, wire.MigData(8, size).pack() + b"data")
    assert refusal.value.errno == errno.EINVAL


def test_a_state_without_end_takes_no_memory(probed: RawClient, prober: Prober) -> None:
    probed.set_state(S.RESUMING)
    for _ in range(20):
        probed.migration_write(bytes(1 << 20))
    assert prober.migration
    assert len(prober.migration._stream) == STATE


@pytest.mark.parametrize("size", [0, -1, (1 << 28) + 1])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Migration(size, bytes, lambda _: None)


def test_a_model_that_saves_another_size() -> None:
    broken = Migration(STATE, lambda: b"short", lambda _: None)
    with pytest.raises(ValueError, match="5 bytes"):
        broken.set(S.STOP_COPY)
