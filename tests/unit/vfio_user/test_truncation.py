# SPDX-License-Identifier: Apache-2.0
"""Every command cut short at every byte: within its frame, and by the end of the stream."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    Command,
    DeviceState,
    Feature,
    FeatureFlag,
    Header,
    Irq,
    SetIrqsFlag,
)
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, Prober, Reg

WRITE = struct.pack("<QIII", Reg.CHAIN, BUFFER, 4, 7)
STATE = wire.MigState(DeviceState.STOP, -1).pack()
SET_STATE = FeatureFlag.SET | Feature.MIG_DEVICE_STATE
WHOLE: dict[Command, bytes] = {
    Command.DMA_MAP: wire.DmaMap(32, 3, 0, 0x10000, 4096).pack(),
    Command.DMA_UNMAP: wire.DmaUnmap(24, 0, 0x10000, 4096).pack(),
    Command.DEVICE_GET_INFO: wire.DEVICE_INFO.pack(16, 0, 0, 0),
    Command.DEVICE_GET_REGION_INFO: wire.REGION_INFO.pack(32, 0, 0, 0, 0, 0),
    Command.DEVICE_GET_REGION_IO_FDS: wire.REGION_IO_FDS.pack(16, 0, 0, 0),
    Command.DEVICE_GET_IRQ_INFO: wire.IRQ_INFO.pack(16, 0, 0, 0),
    Command.DEVICE_SET_IRQS: wire.SetIrqs(
        21, SetIrqsFlag.DATA_BOOL | SetIrqsFlag.ACTION_MASK, Irq.INTX, 0, 1
    ).pack()
    + b"\1",
    Command.REGION_READ: WRITE[:16],
    Command.REGION_WRITE: WRITE,
    Command.REGION_WRITE_MULTI: struct.pack("<QQII8s", 1, Reg.CHAIN, BUFFER, 4, b"\7"),
    Command.DEVICE_FEATURE: wire.DeviceFeature(16, SET_STATE).pack() + STATE,
    Command.MIG_DATA_READ: wire.MigData(12, 4).pack(),
    Command.MIG_DATA_WRITE: wire.MigData(8, 4).pack() + b"data",
}
CUTS = [(command, cut) for command, whole in WHOLE.items() for cut in range(len(whole))]


def prepare(client: RawClient, command: Command) -> None:
    if command is Command.MIG_DATA_WRITE:
        client.set_state(DeviceState.RESUMING)
    elif command is Command.MIG_DATA_READ:
        client.set_state(DeviceState.STOP_COPY)


@pytest.mark.parametrize(("command", "cut"), CUTS)
def test_cut_within_its_frame(
    probed: RawClient, prober: Prober, command: Command, cut: int
) -> None:
    prepare(probed, command)
    before = prober.migration and prober.migration.state
    with pytest.raises(Refused) as refusal:
        probed.call(command, WHOLE[command][:cut])
    assert refusal.value.errno == errno.EINVAL
    assert prober.control[Reg.CHAIN] == 0, "it had an effect"
    assert prober.migration
    assert prober.migration.state == before
    assert prober.bus.client
    assert not list(prober.bus.client.ranges())


@pytest.mark.parametrize("command", WHOLE)
def test_whole(probed: RawClient, command: Command) -> None:
    """The messages that the other tests cut are right."""
    prepare(probed, command)
    probed.call(command, WHOLE[command])


@pytest.mark.parametrize(
    "command",
    [each for each in WHOLE if each.name not in ("DEVICE_GET_INFO", "DEVICE_GET_IRQ_INFO")],
)
def test_one_byte_more(probed: RawClient, command: Command) -> None:
    """Where the length follows from the request, it must be that; queries may carry more."""
    prepare(probed, command)
    more = WHOLE[command] + b"\0"
    if command in (Command.DEVICE_GET_REGION_INFO, Command.DEVICE_GET_REGION_IO_FDS):
        probed.call(command, more)
        return
    with pytest.raises(Refused) as refusal:
        probed.call(command, more)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("command", WHOLE)
def test_cut_by_the_end_of_the_stream(server: Path, memory: int, command: Command) -> None:
    """A client that dies at any byte of a message leaves a server that serves the next."""
    size = HEADER_SIZE + len(WHOLE[command])
    whole = Header(1, command, size, 0, 0).pack() + WHOLE[command]
    for cut in range(1, size):
        with RawClient(server, negotiate=False) as client:
            client.send_raw(whole[:cut], [memory] if cut % 2 else None)
    with RawClient(server) as following:
        assert following.call(Command.DEVICE_GET_INFO, WHOLE[Command.DEVICE_GET_INFO])


@pytest.mark.parametrize("command", WHOLE)
def test_in_two_pieces_cut_anywhere(probed: RawClient, command: Command) -> None:
    """The first piece waits for the second; nothing is answered before."""
    prepare(probed, command)
    size = HEADER_SIZE + len(WHOLE[command])
    whole = Header(9, command, size, 0, 0).pack() + WHOLE[command]
    cut = len(whole) // 2
    probed.send_raw(whole[:cut])
    probed.send_raw(whole[cut:])
    reply = probed.receive()
    assert (reply.header.message_id, reply.header.error) == (9, 0)


@pytest.mark.parametrize("command", [*WHOLE, Command.DEVICE_RESET])
def test_before_version(server: Path, command: Command) -> None:
    with RawClient(server, negotiate=False) as client:
        with pytest.raises(Refused) as refusal:
            client.call(command, WHOLE.get(command, b""))
        assert refusal.value.errno == errno.EINVAL
        assert client.version(), "it can still negotiate"


@pytest.mark.parametrize(
    "command", [each for each in WHOLE if each not in (Command.DMA_MAP, Command.DEVICE_SET_IRQS)]
)
def test_descriptors_where_none_belong(probed: RawClient, memory: int, command: Command) -> None:
    prepare(probed, command)
    with pytest.raises(Refused) as refusal:
        probed.call(command, WHOLE[command], descriptors=[memory])
    assert refusal.value.errno == errno.EINVAL
