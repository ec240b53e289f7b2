# SPDX-License-Identifier: Apache-2.0
"""Several functions and several devices in one process: sockets, names, and what they share."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device import loader, served
from dma_rehearsal.device.endpoints import DmaRefused
from dma_rehearsal.device.endpoints.multi_function import FUNCTIONS_MAX
from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    FUNCTION_CAPACITY,
    FUNCTION_NAMED,
    DmaReason,
    GrantDirection,
    Plat,
    ProtectionCommand,
)
from dma_rehearsal.device.loader import EndpointNotFound
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Command
from tests.unit.device.processes import running
from tests.unit.vfio_user.client import RawClient

CARD = """
from enum import IntEnum
from dma_rehearsal.device.endpoints import *

class Reg(IntEnum):
    ADDRESS = 0
    COPY = 4
    STATUS = 8
    RESET = 12

class Port(Endpoint):
    '''Copies four bytes from ADDRESS into its memory.'''
    name = "port"
    vectors = 1
    identity = Identity(vendor_id=0x1234, device_id=0x0001, class_code=0x020000)
    bars = {
        0: RegisterBar((Register(Reg.ADDRESS, Access.RW), Register(Reg.COPY, Access.WO),
                        Register(Reg.STATUS), Register(Reg.RESET, Access.WO))),
        2: MemoryBar(0x1000),
    }

    def write_copy(self, value):
        registers = self.registers(0)
        try:
            self.memory(2)[:4] = self.bus.read(registers[Reg.ADDRESS], 4)
            registers[Reg.STATUS] = 1
        except DmaRefused as refusal:
            registers[Reg.STATUS] = refusal.reason << 8
        self.msix(0)

    def write_reset(self, value):
        self.card.reset()

class Engine(Port):
    name = "engine"
    identity = Identity(vendor_id=0x1234, device_id=0x0002, class_code=0x120000)

class Card(MultiFunction):
    functions = (Port, Engine)

class Lone(Port):
    name = "lone"

class Reserved(Port):
    name = "platform"
"""
ADDRESS, COPY, STATUS, RESET = 0, 4, 8, 12
PLACE = 0xE000_0000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_card.py").write_text(CARD)
    (tmp_path / "wrong_card.py").write_text(
        f"{CARD}\nclass Wrong(MultiFunction):\n    functions = {{1: Port}}\n"
    )
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(path: Path, what: str) -> Any:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(10)
        control.connect(str(path))
        control.sendall(json.dumps({what: None}).encode() + b"\n")
        return json.loads(control.makefile().readline())[what]


@pytest.fixture
def process(folder: Path) -> Iterator[dict[str, Path]]:
    """A process with a card and another device; the sockets of its functions, by their names."""
    sockets = folder / "s"
    control = sockets / "control"
    argv = (
        *("--endpoint", "my_card:Card,my_card:Lone"),
        *("--endpoint-socket", str(sockets / "second"), "--control-socket", str(control)),
        *("--trace", str(folder / "trace"), "--slot", "4", "--slot", "0x6"),
    )
    with running(sockets, *argv, cwd=folder):
        functions = ask(control, "functions")
        assert [(each["device"], each["function"]) for each in functions] == [
            (0, 0),
            (0, 1),
            (1, 0),
        ]
        assert [Path(each["socket"]).name for each in functions] == [
            "exerciser",
            "exerciser.1",
            "second",
        ]
        yield {each["name"]: Path(each["socket"]) for each in functions}


@pytest.fixture
def clients(process: dict[str, Path]) -> Iterator[dict[str, RawClient]]:
    with ExitStack() as stack:
        found = {name: stack.enter_context(RawClient(path)) for name, path in process.items()}
        for number, client in enumerate(found.values()):
            client.write32(7, Header.BAR0 + 4 * 2, PLACE + 0x1_0000 * number)
            client.write32(7, Header.COMMAND, 6)
        yield found


def test_each_function_has_its_socket_and_its_identity(clients: dict[str, RawClient]) -> None:
    assert {name: client.read32(7, 0) >> 16 for name, client in clients.items()} == {
        "port": 1,
        "engine": 2,
        "lone": 1,
    }
    several = {name: client.read32(7, 0x0C) >> 23 & 1 for name, client in clients.items()}
    assert several == {"port": 1, "engine": 1, "lone": 0}


@pytest.mark.parametrize(("reader", "owner", "place"), [("port", "engine", 1), ("lone", "port", 0)])
def test_functions_reach_memory_of_each_other(
    clients: dict[str, RawClient], folder: Path, reader: str, owner: str, place: int
) -> None:
    clients[owner].region_write(2, 0, b"mine")
    clients[reader].write32(0, ADDRESS, PLACE + 0x1_0000 * place)
    clients[reader].write32(0, COPY, 1)
    assert clients[reader].read32(0, STATUS) == 1
    assert clients[reader].region_read(2, 0, 4) == b"mine"
    events = [json.loads(line) for line in (folder / "trace").read_text().splitlines()]
    (request,) = [each for each in events if each["event"] == "request"]
    assert (request["device"], request["reason"]) == (reader, "NONE")


def test_one_protection_unit_is_before_all_of_them(
    clients: dict[str, RawClient], process: dict[str, Path]
) -> None:
    with RawClient(process["port"].with_name("platform")) as platform:
        platform.write32(0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)
        for client in clients.values():
            client.write32(0, ADDRESS, 0x1000)
            client.write32(0, COPY, 1)
            assert client.read32(0, STATUS) >> 8 == DmaReason.PROTECTION_OUTSIDE
        assert platform.read32(0, Plat.FAULT_COUNT) == 3


def test_held_actions_of_two_functions_are_let_go_one_by_one_or_together(
    clients: dict[str, RawClient], process: dict[str, Path]
) -> None:
    with RawClient(process["port"].with_name("platform")) as platform:
        platform.write32(0, Plat.HOLD_CTL, 1)
        for client in clients.values():
            client.write32(0, ADDRESS, 0x1000)
            client.write32(0, COPY, 1)
        assert platform.read32(0, Plat.HELD) == 3
        while clients["port"].read32(0, STATUS) == 0:
            pass  # its own polls let it go
        assert platform.read32(0, Plat.HELD) == 2
        assert clients["engine"].read32(0, STATUS) == 0
        platform.write32(0, Plat.HOLD_RELEASE, 1)
        for name in "engine", "lone":
            while clients[name].read32(0, STATUS) == 0:
                pass
        assert platform.read32(0, Plat.HELD) == 0


def test_a_grant_for_one_function_is_not_the_siblings(
    clients: dict[str, RawClient], process: dict[str, Path]
) -> None:
    """The process has been told the slots, so it knows whose request it is."""
    due = {"port": DmaReason.PROTECTION_FUNCTION, "lone": DmaReason.PROTECTION_FUNCTION}
    with RawClient(process["port"].with_name("platform")) as platform:
        platform.write32(0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)
        platform.write32(0, Plat.GRANT_ADDRESS_LO, 0x1000)
        platform.write32(0, Plat.GRANT_LENGTH_LO, 4)
        platform.write32(0, Plat.GRANT_DIRECTION, GrantDirection.OUT)
        platform.write32(0, Plat.GRANT_FUNCTION, FUNCTION_NAMED | 4 << 3 | 1)
        platform.write32(0, Plat.PROTECTION_CTL, ProtectionCommand.GRANT_TO_FUNCTION)
        for name, client in clients.items():
            client.write32(0, ADDRESS, 0x1000)
            client.write32(0, COPY, 1)
            reason = client.read32(0, STATUS) >> 8
            assert reason == due.get(name, DmaReason.UNMAPPED), "granted; the client has no memory"


def test_there_is_room_for_grants_to_each_function_of_a_process() -> None:
    """A right driver of the last function gets its grants like that of the first."""
    assert served.DEVICES_MAX * FUNCTIONS_MAX <= FUNCTION_CAPACITY


def test_a_reset_of_one_function_leaves_the_others(clients: dict[str, RawClient]) -> None:
    clients["port"].write32(0, ADDRESS, 0x1234)
    clients["engine"].write32(0, ADDRESS, 0x5678)
    clients["port"].call(Command.DEVICE_RESET)
    clients["port"].write32(7, Header.COMMAND, 6)
    assert clients["port"].read32(0, ADDRESS) == 0
    assert clients["engine"].read32(0, ADDRESS) == 0x5678


def test_a_reset_register_of_a_card_resets_all_functions_and_no_configuration(
    clients: dict[str, RawClient],
) -> None:
    for client in clients.values():
        client.write32(0, ADDRESS, 0x1234)
    clients["engine"].write32(0, RESET, 1)
    for name in "port", "engine":
        while clients[name].read32(0, ADDRESS):
            pass
        assert clients[name].read32(7, Header.COMMAND) & 6 == 6
    assert clients["lone"].read32(0, ADDRESS) == 0x1234


def make(text: str, sockets: Sequence[str] = ("a",), **options: Any) -> list[served.Served]:
    return served.make(text, [Path(each) for each in sockets], Trace(), {}, **options)


@pytest.mark.parametrize(
    ("text", "sockets", "words", "hint"),
    [
        ("my_card:Card,", ["a"], "a comma has no class beside it", "with a comma between"),
        ("my_card:Card,my_card:Port", ["a", "b"], "the same name, 'port'", "give Port another"),
        ("my_card:Lone,my_card:Lone", ["a", "b"], "my_card:Lone and my_card:Lone", "name = "),
        ("my_card:Reserved", ["a"], "'platform', which is one of the rig's own", "name = "),
        ("my_card:Card,my_card:Lone", ["a"], "names 2 devices, and there are 1 sockets", "one --"),
        (",".join(["my_card:Lone"] * 9), ["a"], "9 devices, and a process serves 8", "MultiFunct"),
        ("my_card:Card,no:One", ["a", "b"], "there is no module no", "MODULE:CLASS"),
        (
            "wrong_card:Wrong",
            ["a"],
            r"wrong_card.py:\d+: Wrong.functions has no function 0",
            "fix wrong_card",
        ),
        ("my_card:MultiFunction", ["a"], "MultiFunction is not an Endpoint", "docs/tutorial"),
    ],
)
def test_what_cannot_be_served_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, sockets: list[str], words: str,
    hint: str,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(EndpointNotFound, match=words) as refused:
        make(text, sockets)
    assert hint in refused.value.hint


def test_a_profile_holds_for_all_functions_of_one_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    limits = profile.parse({"address_bits": 24}, "mine")
    found = make("my_card:Card", profile=limits)
    assert len(found) == 2
    for each in found:
        with pytest.raises(DmaRefused, match="ADDRESS_BITS"):
            each.endpoint.bus.read(1 << 24, 4)
        with pytest.raises(DmaRefused, match="BUS_MASTER_OFF"):
            each.endpoint.bus.read((1 << 24) - 4, 4)
    assert make("my_card:Lone")[0].endpoint.bus.limits is None
    with pytest.raises(EndpointNotFound, match="--endpoint names 2") as refused:
        make("my_card:Card,my_card:Lone", ["a", "b"], profile=limits)
    assert "serve one device" in refused.value.hint


def test_a_class_that_takes_a_profile_gets_it() -> None:
    limits = profile.parse({"address_bits": 24}, "mine")
    (found,) = make(loader.DEFAULT, profile=limits)
    assert isinstance(found.endpoint, Exerciser)
    assert found.endpoint.profile is limits
    assert found.endpoint.bus.limits is None


def test_slots_give_each_function_its_requester_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    both = "my_card:Card,my_card:Lone"
    found = make(both, ["a", "b"], slots=[4, 31])
    assert [each.endpoint.requester_id for each in found] == [0x20, 0x21, 0xF8]
    assert [each.endpoint.requester_id for each in make(both, ["a", "b"])] == [None] * 3
    peers = make("my_card:Lone", peer=Path("peer"), slots=[4, 6])
    assert [each.endpoint.requester_id for each in peers] == [0x20, 0x30]
    for wrong in ([4], [4, 4], [4, 5, 6], []):
        with pytest.raises(ValueError, match="2 devices have 2 slots, each its own"):
            make(both, ["a", "b"], slots=wrong)
    for wrong in ([4, 32], [-1, 4]):
        with pytest.raises(ValueError, match="a bus has the slots 0 to 31"):
            make(both, ["a", "b"], slots=wrong)


def test_a_peer_of_a_device_with_several_functions_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    found = make("my_card:Lone", peer=Path("peer"))
    assert [(each.endpoint.name, each.device) for each in found] == [("lone", 0), ("peer", 1)]
    with pytest.raises(EndpointNotFound, match="serves one function a second time"):
        make("my_card:Card", peer=Path("peer"))
