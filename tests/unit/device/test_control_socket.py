# SPDX-License-Identifier: Apache-2.0
"""The control socket: faults of a device process that serves, set and cleared by whoever connects.

What a fault then does is in test_faults.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.control_socket import REQUEST_MAX
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.injector import FaultError, FaultInjector
from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.platform.witness import Witness
from dma_rehearsal.device.trace import Trace
from tests.unit.device.processes import running
from tests.unit.vfio_user.client import RawClient


def ask(path: Path, line: bytes) -> dict[str, Any]:
    """Send bytes and no more; return the answer."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(10)
        control.connect(str(path))
        with contextlib.suppress(BrokenPipeError):  # too much is not read to its end
            control.sendall(line)
            control.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := control.recv(1 << 16):
                answer += part
    loaded: dict[str, Any] = json.loads(answer)
    return loaded


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "control"
    with running(tmp_path, "--control-socket", str(path), "--trace", str(tmp_path / "trace")):
        yield path


def test_faults_come_and_go_while_a_client_is_served(control: Path) -> None:
    with RawClient(control.with_name("exerciser")) as client:
        said = []
        for fault in ("trace-of-words", None, "witness-ignores-pat", "trace-of-words", None):
            said.append(ask(control, json.dumps({"fault": fault}).encode() + b"\n"))
            client.write32(0, Reg.TXN_CTRL, 1)
            client.region_write(1, 0, bytes(8))
            words = 0
            while client.read32(0, Reg.TXN_TRACE) != 0xFFFF_FFFF:
                words += 1
            assert words == (10 if fault == "trace-of-words" else 5)
    assert [each["fault"] for each in said] == [
        *("trace-of-words", None, "witness-ignores-pat", "trace-of-words", None)
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "write one line"),
        (b"nonsense\n", "write one line"),
        (b"[" * 4000 + b"\n", "write one line"),
        (b'{"fault": 3}\n', "is a string"),
        (b'{"fault": null, "more": 1}\n', "write one line"),
        (b'{"fault": "nonsense"}\n', "there is no fault 'nonsense'"),
        (b'{"fault": "' + b"a" * 5000, "write one line"),
        (b'{"test": 3}\n', "the name of a test is a string"),
        (b'{"test": null, "fault": null}\n', "write one line"),
        (b'{"accesses": "3"}\n', "cannot be set"),
        (b'{"test": "' + b"a" * REQUEST_MAX + b'"}\n', "more than 65536 bytes: the name is too"),
        (b'{"test": "' + b"a" * (1 << 20) + b'"}\n', "more than 65536 bytes: the name is too"),
    ],
)
def test_nonsense_is_refused_and_the_next_is_served(control: Path, line: bytes, words: str) -> None:
    assert words in ask(control, line)["error"]
    assert ask(control, b'{"fault": "msix-dropped"}\n') == {"fault": "msix-dropped"}


@pytest.mark.parametrize("name", ["tests/a.py::b", "a" * 60_000, 'ö\n"[\x00]\\ \udc80', ""])
def test_the_test_that_runs_is_in_every_event(control: Path, name: str) -> None:
    for test in (name, None):
        assert ask(control, json.dumps({"test": test}).encode() + b"\n") == {"test": test}
        with RawClient(control.with_name("exerciser")) as client:
            client.write32(0, Reg.MSICTL, 1 << 31)
    events = [json.loads(line) for line in control.with_name("trace").read_text().splitlines()]
    tests = {each["test"] for each in events if each["event"] == "attach"}
    assert tests == {name, None}


def test_accesses_to_configuration_space_and_bars_are_counted(control: Path) -> None:
    def accesses() -> int:
        count: int = ask(control, b'{"accesses": null}\n')["accesses"]
        return count

    for socket_name in "exerciser", "platform":
        with RawClient(control.with_name(socket_name)) as client:
            before = accesses()
            assert accesses() == before
            client.region_read(7, 0, 4)
            client.region_read(0, 0, 4)
            client.region_write(7, 0x3C, b"\x05")
            assert accesses() == before + 3


def test_whoever_says_nothing_keeps_nobody_waiting(control: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(control))
        assert ask(control, b'{"fault": null}\n') == {"fault": None}


def test_an_endpoint_of_somebody_else_has_no_fault_of_the_exerciser() -> None:
    class Mine(Exerciser):
        pass

    mine, platform = Mine(Trace()), Platform(Trace())
    injector = FaultInjector([mine], platform)
    with pytest.raises(
        FaultError, match="msix-dropped is one of the exerciser's, and the endpoint is Mine"
    ):
        injector.set("msix-dropped")
    injector.set("witness-ignores-pat")
    assert mine.behaviour is mine
    assert platform.models.witness is not Witness
