# SPDX-License-Identifier: Apache-2.0
"""VERSION: first, once, and within what QEMU's buffer holds."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user.messages import NUM_REGIONS, Command, Flags
from tests.unit.vfio_user.client import RawClient, Refused

# QEMU gives the reply as much room as its own request takes.
QEMU_REPLY_ROOM = 194
WRONG_NUMBERS = (-1, "16", 16.5, True, None, [16])


def proposal(capabilities: dict[str, object]) -> bytes:
    return json.dumps({"capabilities": capabilities}).encode() + b"\0"


def test_reply_offers_what_the_server_does(server: Path) -> None:
    with RawClient(server, negotiate=False) as client:
        reply = client.version()
    assert struct.unpack_from("<HH", reply) == (0, 0)
    text = reply[4:]
    assert text.endswith(b"\0")
    assert len(text) <= QEMU_REPLY_ROOM
    capabilities = json.loads(text[:-1])["capabilities"]
    assert capabilities["max_msg_fds"] == 16
    assert capabilities["write_multiple"] is True
    assert capabilities["max_data_xfer_size"] == 1 << 20


def test_what_qemu_proposes_is_granted(server: Path) -> None:
    proposed: dict[str, object] = {
        "migration": {"max_bitmap_size": 268435456, "pgsize": 4096},
        "pgsizes": 4096,
        "max_data_xfer_size": 1048576,
        "max_msg_fds": 16,
        "max_dma_maps": 65535,
        "write_multiple": True,
    }
    with RawClient(server, negotiate=False) as client:
        granted = json.loads(client.version(proposal(proposed))[4:-1])["capabilities"]
    assert granted == {
        name: proposed[name]
        for name in ("max_msg_fds", "max_data_xfer_size", "pgsizes", "write_multiple")
    }


@pytest.mark.parametrize("text", [b"", b"{}\0", b'{"capabilities":{}}\0', b"\0"])
def test_absent_capabilities_are_accepted(server: Path, text: bytes) -> None:
    with RawClient(server, negotiate=False) as client:
        assert client.version(text)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"{\0",
        b"[]\0",
        b'"text"\0',
        b'{"capabilities":1}\0',
        b"\xff\xfe\0",
        b"[" * 5000 + b"\0",
    ],
)
def test_malformed_capabilities_are_refused(server: Path, text: bytes) -> None:
    with RawClient(server, negotiate=False) as client:
        with pytest.raises(Refused) as refusal:
            client.version(text)
        assert refusal.value.errno == errno.EINVAL
        assert client.version(), "the client may try again"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("max_msg_fds", "pgsizes") for value in WRONG_NUMBERS),
        *((name, value) for name in ("max_dma_maps", "max_data_xfer_size") for value in (0, "1")),
        ("pgsizes", 0),
        ("pgsizes", 2048),
        ("write_multiple", 0),
        ("write_multiple", "true"),
        ("twin_socket", True),
        ("twin_socket", {"supported": "no"}),
        ("migration", []),
        ("migration", {"pgsize": "4096"}),
        ("migration", {"pgsize": 0}),
        ("migration", {"pgsize": 12288}),
        ("migration", {"pgsize": 4096, "max_bitmap_size": "large"}),
    ],
)
def test_capability_of_another_type_or_range(server: Path, name: str, value: object) -> None:
    with RawClient(server, negotiate=False) as client:
        with pytest.raises(Refused) as refusal:
            client.version(proposal({name: value}))
        assert refusal.value.errno == errno.EINVAL
        assert client.version(), "the client may try again"


@pytest.mark.parametrize(
    ("proposed", "answered"),
    [
        ({}, {}),
        ({"unknown": "anything", "Pgsizes": []}, {}),
        ({"max_msg_fds": 0}, {"max_msg_fds": 16}),
        ({"max_data_xfer_size": 10**30}, {"max_data_xfer_size": 1 << 20}),
        ({"pgsizes": 8192, "max_dma_maps": 1}, {"pgsizes": 4096}),
        ({"write_multiple": True}, {"write_multiple": True}),
        ({"write_multiple": False}, {}),
        ({"twin_socket": {"supported": True, "fd_index": "none"}}, {}),
        ({"migration": {"pgsize": 1 << 21, "max_bitmap_size": 1 << 28}}, {}),
        ({"migration": {}}, {}),
    ],
)
def test_reply_names_nothing_that_was_not_proposed(
    server: Path, proposed: dict[str, object], answered: dict[str, object]
) -> None:
    with RawClient(server, negotiate=False) as client:
        reply = client.version(proposal(proposed))
    assert json.loads(reply[4:-1]) == {"capabilities": answered}


@pytest.mark.parametrize("major", [1, 2, 0xFFFF])
def test_other_major_version_is_refused(server: Path, major: int) -> None:
    with RawClient(server, negotiate=False) as client, pytest.raises(Refused) as refusal:
        client.version(major=major)
    assert refusal.value.errno == errno.ENOTSUP


def test_newer_minor_version_is_answered_with_ours(server: Path) -> None:
    with RawClient(server, negotiate=False) as client:
        assert struct.unpack_from("<HH", client.version(minor=7)) == (0, 0)


@pytest.mark.parametrize("length", range(4))
def test_cut_short(server: Path, length: int) -> None:
    with RawClient(server, negotiate=False) as client, pytest.raises(Refused) as refusal:
        client.call(Command.VERSION, bytes(length))
    assert refusal.value.errno == errno.EINVAL


def test_twice_is_refused(client: RawClient) -> None:
    with pytest.raises(Refused) as refusal:
        client.version()
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("command", [each for each in Command if each is not Command.VERSION])
def test_other_commands_before_version_are_refused(server: Path, command: Command) -> None:
    with RawClient(server, negotiate=False) as client:
        with pytest.raises(Refused) as refusal:
            client.call(command, bytes(32))
        assert refusal.value.errno == errno.EINVAL
        client.version()
        info = client.call(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        assert struct.unpack("<IIII", info)[2] == NUM_REGIONS


def test_reply_before_version_is_never_answered(server: Path) -> None:
    """Nothing was asked, so the stream cannot be followed: two that err would answer for ever."""
    with RawClient(server, negotiate=False) as client:
        client.send(Command.DMA_READ, flags=Flags.REPLY)
        with pytest.raises(EOFError):
            client.receive()
    with RawClient(server) as following:
        assert following.call(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))


@pytest.mark.parametrize(
    "value",
    [b'"' + b"long" * 100_000 + b'"', b"[" * 900 + b"]" * 900, b"1" * 4000],
    ids=["long", "deep", "large"],
)
@pytest.mark.parametrize("name", [b"write_multiple", b"migration"])
def test_wrong_value_is_logged_in_short(
    server: Path, caplog: pytest.LogCaptureFixture, name: bytes, value: bytes
) -> None:
    wrong = value if name == b"write_multiple" else b'{"pgsize":' + value + b"}"
    with RawClient(server, negotiate=False) as client, pytest.raises(Refused) as refusal:
        client.version(b'{"capabilities":{"' + name + b'":' + wrong + b"}}\0")
    assert refusal.value.errno == errno.EINVAL
    assert 0 < len(caplog.text) < 1000
