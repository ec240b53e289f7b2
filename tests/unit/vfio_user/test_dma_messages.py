# SPDX-License-Identifier: Apache-2.0
"""DMA_READ and DMA_WRITE: what the server asks of its client, and what becomes of the answers."""

from __future__ import annotations

import errno
import gc
import struct
import time

import pytest

from dma_rehearsal.device.endpoints import dma_queue
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user import dma_messages
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, DmaAccess, Flags, Header
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, Prober, Reg

BASE, SIZE = 0x10000, 1 << 20
CHUNK = dma_messages.CHUNK
PATTERN = bytes(range(256))
PATIENCE_S = 60


@pytest.fixture
def client(probed: RawClient) -> RawClient:
    """A client that mapped 1 MiB without a descriptor."""
    probed.dma_map(BASE, SIZE, None)
    return probed


def start(client: RawClient, length: int, *, write: bool = False) -> None:
    client.write32(BUFFER, Reg.GO, length | write << 31)


def busy(client: RawClient) -> bool:
    return bool(client.read32(BUFFER, Reg.BUSY))


def refusal(prober: Prober) -> DmaReason:
    assert isinstance(prober.outcome, DmaRefused)
    return prober.outcome.reason


def test_read(client: RawClient, prober: Prober) -> None:
    start(client, 5)
    header, access, data = client.receive_command(Command.DMA_READ)
    assert (access, data) == (DmaAccess(BASE, 5), b"")
    client.answer(header, access.pack() + b"bytes")
    assert not busy(client)
    assert prober.outcome == b"bytes"


def test_write(client: RawClient, prober: Prober) -> None:
    start(client, 4, write=True)
    header, access, data = client.receive_command(Command.DMA_WRITE)
    assert (access, data) == (DmaAccess(BASE, 4), b"\0\1\2\3")
    client.answer(header, access.pack())
    assert not busy(client)
    assert prober.outcome == b""


def test_reply_to_a_write_with_the_count_of_the_specifications_table(
    client: RawClient, prober: Prober
) -> None:
    start(client, 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.answer(header, struct.pack("<QI", access.address, access.count))
    assert not busy(client)
    assert prober.outcome == b""


def test_reply_to_a_write_that_is_a_bare_header(client: RawClient, prober: Prober) -> None:
    """QEMU quirk: 10.1 and 10.2 answer so; the message's id says which write was done."""
    start(client, CHUNK + 4, write=True)
    for count in (CHUNK, 4):
        header, access, _ = client.receive_command(Command.DMA_WRITE)
        assert access.count == count
        client.answer(header, b"")
    assert not busy(client)
    assert prober.outcome == b""


def test_the_acknowledgement_comes_first_and_registers_are_served_meanwhile(
    client: RawClient, prober: Prober
) -> None:
    """QEMU quirk: a vCPU holds QEMU's lock until its access is answered."""
    payload = struct.pack("<QIII", Reg.GO, BUFFER, 4, 8)
    client.send(Command.REGION_WRITE, payload)
    assert client.receive().header.command == Command.REGION_WRITE
    header, access, _ = client.receive_command(Command.DMA_READ)
    for _ in range(50):
        assert busy(client)
        client.write32(BUFFER, Reg.CHAIN, 0)
    assert prober.outcome is None
    client.answer(header, access.pack() + bytes(8))
    assert not busy(client)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_pieces_of_64_kib(client: RawClient, prober: Prober, length: int, write: bool) -> None:
    """QEMU quirk: 256 KiB in one message hang it."""
    start(client, length, write=write)
    moved, found = 0, b""
    while moved < length:
        command = Command.DMA_WRITE if write else Command.DMA_READ
        header, access, data = client.receive_command(command)
        assert access.address == BASE + moved
        assert 0 < access.count <= CHUNK
        found += data
        content = PATTERN * (access.count // 256 + 1)
        client.answer(header, access.pack() + (b"" if write else content[: access.count]))
        moved += access.count
    assert not busy(client)
    assert moved == length
    if write:
        assert found == (PATTERN * (length // 256 + 1))[:length]
    else:
        assert isinstance(prober.outcome, bytes)
        assert len(prober.outcome) == length


@pytest.mark.parametrize("error", [errno.EFAULT, errno.EINVAL, 0xFFFF_FFFF, 0])
def test_the_client_refuses(client: RawClient, prober: Prober, error: int) -> None:
    start(client, 4)
    header, _access, _ = client.receive_command(Command.DMA_READ)
    reply = Header(header.message_id, header.command, 16, Flags.REPLY | Flags.ERROR, error)
    client.send_raw(reply.pack())
    assert not busy(client)
    assert refusal(prober) is DmaReason.CLIENT_ERROR


def test_a_refusal_within_tells_how_far_a_write_came(client: RawClient, prober: Prober) -> None:
    start(client, CHUNK + 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.answer(header, access.pack())
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.answer(header, error=errno.EFAULT)
    assert not busy(client)
    assert isinstance(prober.outcome, DmaRefused)
    assert prober.outcome.address == BASE + CHUNK


def test_bus_mastering_that_ends_meanwhile_ends_the_dma(client: RawClient, prober: Prober) -> None:
    start(client, CHUNK + 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.region_write(7, 4, b"\2\0")
    client.answer(header, access.pack())
    assert not busy(client)
    assert refusal(prober) is DmaReason.BUS_MASTER_OFF
    assert isinstance(prober.outcome, DmaRefused)
    assert prober.outcome.address == BASE + CHUNK


def test_memory_that_is_unmapped_meanwhile_is_not_asked_for(
    client: RawClient, prober: Prober
) -> None:
    start(client, CHUNK + 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.dma_unmap(BASE, SIZE)
    client.answer(header, access.pack())
    assert not busy(client)
    assert refusal(prober) is DmaReason.UNMAPPED


@pytest.mark.parametrize(
    ("address", "length", "write", "reason"),
    [
        (BASE - 1, 2, False, DmaReason.UNMAPPED),
        (BASE + SIZE - 1, 2, True, DmaReason.UNMAPPED),
        (0, 1, False, DmaReason.UNMAPPED),
        ((1 << 64) - 1, 2, False, DmaReason.ADDRESS_WRAP),
        ((1 << 64) - 1, 1, False, DmaReason.UNMAPPED),
    ],
)
def test_what_is_not_mapped_is_refused_without_a_message(
    client: RawClient, prober: Prober, address: int, length: int, write: bool, reason: DmaReason
) -> None:
    prober.address = address
    start(client, length, write=write)
    assert not busy(client)
    assert refusal(prober) is reason


def test_read_only_memory_is_refused_without_a_message(client: RawClient, prober: Prober) -> None:
    client.dma_map(0x90_0000, 4096, None, flags=1)
    prober.address = 0x90_0000
    start(client, 4, write=True)
    assert refusal(prober) is DmaReason.READ_ONLY


def test_by_message_even_where_nothing_is_mapped(client: RawClient, prober: Prober) -> None:
    """QEMU quirk: that is what raises the fault of its IOMMU in the guest."""
    prober.by_message, prober.address = True, 0x7000_0000
    start(client, 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    assert access.address == 0x7000_0000
    client.answer(header, error=errno.EFAULT)
    assert not busy(client)
    assert refusal(prober) is DmaReason.CLIENT_ERROR


def test_mapped_memory_needs_no_message(client: RawClient, prober: Prober, memory: int) -> None:
    client.dma_map(0x80_0000, 4096, memory)
    prober.address = 0x80_0000
    start(client, 4, write=True)
    assert not busy(client)
    assert prober.outcome == b""


def test_order_is_kept_between_messages_and_mapped_memory(
    client: RawClient, prober: Prober, memory: int
) -> None:
    client.dma_map(0x80_0000, 4096, memory)
    start(client, 4)
    header, access, _ = client.receive_command(Command.DMA_READ)
    prober.address = 0x80_0000
    # In the server's thread, as a register's side effect: the second DMA waits for the first.
    start(client, 4)
    assert busy(client)
    assert prober.done == 0
    client.answer(header, access.pack() + b"1234")
    assert not busy(client)
    assert prober.done == 2
    assert prober.outcome == bytes(4)


def wrong_replies() -> list[tuple[str, Header, bytes]]:
    right = DmaAccess(BASE, 4).pack()

    def made(name: str, payload: bytes, **changes: int) -> tuple[str, Header, bytes]:
        fields = {"message_id": 0, "command": Command.DMA_READ, "flags": Flags.REPLY, **changes}
        size = 16 + len(payload)
        header = Header(fields["message_id"], fields["command"], size, fields["flags"], 0)
        return name, header, payload

    return [
        made("another id", right + bytes(4), message_id=1),
        made("another command", right, command=Command.DMA_WRITE),
        made("no DMA", b"", command=Command.DEVICE_RESET),
        made("no payload", b""),
        *(made(f"{cut} bytes", (right + bytes(4))[:cut]) for cut in range(1, 20)),
        made("too long", right + bytes(5)),
        made("another address", DmaAccess(BASE + 1, 4).pack() + bytes(4)),
        made("fewer bytes", DmaAccess(BASE, 3).pack() + bytes(4)),
        made("more bytes", DmaAccess(BASE, 1 << 40).pack() + bytes(4)),
    ]


@pytest.mark.parametrize("cut", [*range(1, 12), 13, 14, 15])
def test_a_reply_to_a_write_that_is_cut_closes(client: RawClient, cut: int) -> None:
    """Whole, with a count of 32 bits or of 64, or none: nothing in between."""
    start(client, 4, write=True)
    header, access, _ = client.receive_command(Command.DMA_WRITE)
    client.answer(header, access.pack()[:cut])
    with pytest.raises(EOFError):
        client.receive()


@pytest.mark.parametrize(
    ("header", "payload"),
    [each[1:] for each in wrong_replies()],
    ids=[each[0] for each in wrong_replies()],
)
def test_a_reply_that_does_not_match_closes(
    client: RawClient, header: Header, payload: bytes
) -> None:
    start(client, 4)
    asked, _, _ = client.receive_command(Command.DMA_READ)
    shifted = asked.message_id + header.message_id & 0xFFFF
    client.send_raw(struct.pack("<H", shifted) + header.pack()[2:] + payload)
    with pytest.raises(EOFError):
        client.receive()


def test_a_reply_with_a_descriptor_closes(client: RawClient, memory: int) -> None:
    start(client, 4)
    asked, access, _ = client.receive_command(Command.DMA_READ)
    reply = Header(asked.message_id, asked.command, 36, Flags.REPLY, 0)
    client.send_raw(reply.pack() + access.pack() + bytes(4), [memory])
    with pytest.raises(EOFError):
        client.receive()


@pytest.mark.parametrize("command", [Command.DMA_READ, Command.DMA_WRITE, Command.DEVICE_GET_INFO])
def test_a_reply_to_nothing_closes(client: RawClient, command: Command) -> None:
    client.send(command, bytes(16), flags=Flags.REPLY)
    with pytest.raises(EOFError):
        client.receive()


def test_the_same_reply_twice_closes(client: RawClient) -> None:
    start(client, 4)
    header, access, _ = client.receive_command(Command.DMA_READ)
    client.answer(header, access.pack() + bytes(4))
    client.answer(header, access.pack() + bytes(4))
    with pytest.raises(EOFError):
        client.receive()


def test_a_silent_client_is_not_waited_for(
    client: RawClient, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 1.0)
    start(client, 4)
    late, access, _ = client.receive_command(Command.DMA_READ)
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 600.0)
    start(client, 4)  # waits behind it
    second, _, _ = client.receive_command(Command.DMA_READ)
    assert refusal(prober) is DmaReason.CLIENT_ERROR
    client.answer(late, access.pack() + bytes(4))  # late, and recognised
    client.answer(second, access.pack() + b"good")
    while busy(client):
        pass
    assert prober.outcome == b"good"


def test_a_client_that_never_answers_is_closed(
    client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 0.001)

    def ask_on() -> None:
        for _ in range(10 * dma_messages.MAX_LATE):
            start(client, 4)
            client.receive_command(Command.DMA_READ)

    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        ask_on()


def test_a_reset_forgets_the_dma_and_still_knows_its_reply(
    client: RawClient, prober: Prober
) -> None:
    start(client, 4)
    header, access, _ = client.receive_command(Command.DMA_READ)
    client.call(Command.DEVICE_RESET)
    assert not busy(client)
    client.answer(header, access.pack() + bytes(4))
    assert client.read32(BUFFER, Reg.BUSY) == 0
    assert prober.outcome is None
    start(client, 4)
    header, access, _ = client.receive_command(Command.DMA_READ)
    client.answer(header, access.pack() + b"next")
    assert not busy(client)
    assert prober.outcome == b"next"


def test_a_client_that_leaves_ends_the_dma(client: RawClient, prober: Prober) -> None:
    start(client, 4)
    client.receive_command(Command.DMA_READ)
    client.send(0, size=1)  # closes the connection, and the answer to that is its end
    with pytest.raises(EOFError):
        client.receive()
    assert refusal(prober) is DmaReason.CLIENT_GONE


def test_a_chain_of_dmas_neither_recurses_nor_keeps_the_client_waiting(
    client: RawClient, prober: Prober, memory: int
) -> None:
    """Each end of a DMA starts the next: a ring that a hostile guest made endless."""
    client.dma_map(0x80_0000, 4096, memory)
    prober.address = 0x80_0000
    client.write32(BUFFER, Reg.CHAIN, 0xFFFF_FFFF)
    start(client, 4)
    # Answered while the chain goes on, and the chain goes on between the answers.
    while client.read32(BUFFER, Reg.CHAIN) > 0xFFFF_FFFF - 10 * dma_queue.TURN_DMAS:
        assert busy(client)
    client.write32(BUFFER, Reg.CHAIN, 0)
    while busy(client):
        pass
    # And one that has an end comes to it.
    client.write32(BUFFER, Reg.CHAIN, 10 * dma_queue.TURN_DMAS)
    start(client, 4)
    while busy(client):
        pass
    assert prober.done == 10 * dma_queue.TURN_DMAS + 1


def test_a_chain_that_is_longer_than_a_turn_goes_on_when_nobody_asks(
    client: RawClient, prober: Prober, memory: int
) -> None:
    client.dma_map(0x80_0000, 4096, memory)
    prober.address = 0x80_0000
    client.write32(BUFFER, Reg.CHAIN, 3 * dma_queue.TURN_DMAS)
    start(client, 4)
    deadline = time.monotonic() + PATIENCE_S
    while prober.done <= 3 * dma_queue.TURN_DMAS:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_chain_goes_on_between_messages_that_reach_no_register(prober: Prober) -> None:
    """A client that sends one behind the other leaves the server no time of its own."""
    connection = Connection(prober)

    def call(command: Command, payload: bytes) -> None:
        header = Header(0, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
        connection.handle(Message(header, payload))

    call(Command.VERSION, bytes(4))
    for register, value in (Reg.CHAIN, 0xFFFF_FFFF), (Reg.GO, 4):
        payload = struct.pack("<QIII", register, BUFFER, 4, value)
        call(Command.REGION_WRITE, payload)
    for turn in range(1, 4):
        assert prober.done == turn * dma_queue.TURN_DMAS
        call(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    connection.close()


def test_an_endless_chain_is_ended_by_a_reset(
    client: RawClient, prober: Prober, memory: int
) -> None:
    client.dma_map(0x80_0000, 4096, memory)
    prober.address = 0x80_0000
    client.write32(BUFFER, Reg.CHAIN, 0xFFFF_FFFF)
    start(client, 4)
    client.call(Command.DEVICE_RESET)
    done = prober.done
    assert not busy(client)
    assert prober.done == done


def test_too_many_dmas_are_refused(client: RawClient, prober: Prober) -> None:
    for _ in range(dma_queue.MAX_QUEUED):
        start(client, 1)
        assert prober.outcome is None
    start(client, 1)
    assert refusal(prober) is DmaReason.CLIENT_ERROR


def test_too_many_bytes_are_refused(client: RawClient, prober: Prober) -> None:
    client.dma_map(0x1000_0000, 1 << 28, None)
    prober.address = 0x1000_0000
    start(client, dma_queue.MAX_QUEUED_BYTES)
    assert prober.outcome is None
    start(client, 1)
    assert refusal(prober) is DmaReason.CLIENT_ERROR


@pytest.mark.parametrize("command", [Command.DMA_READ, Command.DMA_WRITE])
def test_the_client_cannot_ask_for_dma(client: RawClient, command: Command) -> None:
    with pytest.raises(Refused) as refused:
        client.call(command, DmaAccess(BASE, 4).pack())
    assert refused.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("write", [False, True])
def test_a_reset_between_pieces_asks_for_no_more(
    client: RawClient, prober: Prober, write: bool
) -> None:
    start(client, CHUNK + 4, write=write)
    command = Command.DMA_WRITE if write else Command.DMA_READ
    header, access, _ = client.receive_command(command)
    client.call(Command.DEVICE_RESET)
    client.answer(header, access.pack() + (b"" if write else bytes(access.count)))
    assert not busy(client)
    assert prober.outcome is None
    start(client, 4)
    _, access, _ = client.receive_command(Command.DMA_READ)
    assert access == DmaAccess(BASE, 4), "the next one, and nothing of the old one"


def test_what_is_late_holds_no_data(
    client: RawClient, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen may be late, each a DMA of as much as may be under way."""
    client.dma_map(0x1000_0000, 1 << 28, None)
    prober.address = 0x1000_0000
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 0.001)
    for _ in range(dma_messages.MAX_LATE // 2):
        start(client, 1 << 20, write=True)
        client.receive_command(Command.DMA_WRITE)
        while busy(client):
            pass
        assert refusal(prober) is DmaReason.CLIENT_ERROR
    gc.collect()
    held = [each for each in gc.get_objects() if isinstance(each, dma_messages._Asked)]
    assert len(held) == dma_messages.MAX_LATE // 2
    refers = [type(found) for each in held for found in gc.get_referents(each)]
    assert bytes not in refers
    assert bytearray not in refers
    assert memoryview not in refers
