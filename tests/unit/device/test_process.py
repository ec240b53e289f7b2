# SPDX-License-Identifier: Apache-2.0
"""``python -m dma_rehearsal.device``: sockets, signals, the supervisor's pipe, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import (
    EXT_MAGIC,
    PLATFORM_MAGIC,
    DmaCtl,
    DmaReason,
    Ext,
    Plat,
    ProtectionCommand,
    Reg,
)
from dma_rehearsal.device.layout.faults import FAULTS
from tests.unit.device.processes import ROOT, arguments, running
from tests.unit.vfio_user.client import RawClient, Refused


def test_serves_both_functions(tmp_path: Path) -> None:
    with running(tmp_path):
        with RawClient(tmp_path / "exerciser") as exerciser:
            assert exerciser.read32(3, Ext.MAGIC) == EXT_MAGIC
        with RawClient(tmp_path / "platform") as platform:
            assert platform.read32(0, Plat.MAGIC) == PLATFORM_MAGIC


def test_protection_unit_stands_before_each_endpoint(tmp_path: Path) -> None:
    sockets = {name: tmp_path / name for name in ("exerciser", "peer", "platform")}
    peer = "--peer-socket", str(sockets["peer"])
    with running(tmp_path, *peer), RawClient(sockets["platform"]) as platform:
        platform.write32(0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)
        for name in "exerciser", "peer":
            with RawClient(sockets[name]) as endpoint:
                endpoint.write32(7, 4, 6)
                endpoint.write32(0, Reg.DMA_LEN, 4)
                endpoint.write32(0, Reg.DMACTL, DmaCtl.TRIGGER)
                endpoint.write32(3, Ext.RECORD_SELECT, 1)
                assert endpoint.read32(3, Ext.RECORD_REASON) == DmaReason.PROTECTION_OUTSIDE
        assert platform.read32(0, Plat.FAULT_COUNT) == 2


def test_profile_and_coherence(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("vendor = 0x1022\naddress_bits = 28\nvectors = 4\n")
    with (
        running(tmp_path, "--profile", str(mine), "--coherent", "no", "--vectors", "8"),
        RawClient(tmp_path / "exerciser") as client,
    ):
        assert client.read32(7, 0) == 0xED01_1022
        assert client.read32(3, Ext.ADDRESS_BITS) == 28
        assert client.read32(3, Ext.PROFILE) == 0


def test_wrong_profile_is_a_usage_error(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("adress_bits = 28\n")
    for more, words in (
        (("--profile", str(mine)), f"{mine}: adress_bits: there is no such key"),
        (
            ("--profile", "soc-30", "--endpoint", "examples.timer:TimerDevice"),
            "profile soc-30 is not coherent",
        ),
    ):
        done = subprocess.run(
            arguments(tmp_path, *more), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert words in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_and_leaves_no_socket(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process, RawClient(tmp_path / "exerciser"):
        process.send_signal(number)
        assert process.wait(10) == 0
    assert list(tmp_path.iterdir()) == []


def test_end_of_input_ends_it_and_leaves_no_socket(tmp_path: Path) -> None:
    with running(tmp_path, "--die-with-stdin") as process, RawClient(tmp_path / "platform"):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
        process.stdin = None
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_of_a_bug_ends_the_process(tmp_path: Path) -> None:
    """Half a device would look like a device."""
    broken = (
        "import sys\n"
        "from dma_rehearsal.device import __main__ as main\n"
        "from dma_rehearsal.device.vfio_user import server\n"
        "def fail(*_): raise RuntimeError('a bug in the server')\n"
        "server._Session.run = fail\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", broken, *arguments(tmp_path)[3:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with RawClient(tmp_path / "platform", negotiate=False) as client:
            client.socket.settimeout(10)
            assert client.socket.recv(1) == b""
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "a bug in the server" in errors
    assert "ended by itself" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_ends_its_thread_ends_the_process(tmp_path: Path) -> None:
    """A thread dies of SystemExit in silence, and its clients would wait for ever."""
    (tmp_path / "leaving.py").write_text(
        "import sys\n"
        "from dma_rehearsal.device.exerciser.exerciser import Exerciser\n"
        "class Leaving(Exerciser):\n"
        "    def write_intxctl(self, value):\n"
        "        sys.exit('out of here')\n"
    )
    with running(tmp_path, "--endpoint", "leaving:Leaving", cwd=tmp_path) as process:
        with RawClient(tmp_path / "exerciser") as client, pytest.raises(EOFError):
            client.write32(0, Reg.INTXCTL, 1)
        assert process.wait(10) == 1
        assert process.stderr is not None
        errors = process.stderr.read()
    assert b"out of here" in errors
    assert b"ended by itself" in errors


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dma_rehearsal.device", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_tells_how_to_use_it() -> None:
    done = run("--help")
    assert done.returncode == 0
    for words in ("--exerciser-socket", "vfio-user-pci", "memory-backend-memfd", "ready"):
        assert words in done.stdout


def test_faults_are_listed() -> None:
    listed = dict(line.split("\t") for line in run("--list-faults").stdout.splitlines())
    assert listed == {each.name: each.description for each in FAULTS if each.component.in_device}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--exerciser-socket"),
        (["--fault", "nonsense"], "nonsense"),
        (["--exerciser-socket", "a", "--platform-socket", "b", "--buffer-size", "5"], "power of"),
        (["--exerciser-socket", "a", "--platform-socket", "b", "--vectors", "0"], "2048"),
        (["--exerciser-socket", "/nowhere/a", "--platform-socket", "b"], "No such file"),
        (["--exerciser-socket", "a" * 200, "--platform-socket", "b"], "too long"),
    ],
)
def test_bad_arguments_are_named(argv: list[str], words: str) -> None:
    done = run(*argv)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_second_process_on_the_same_sockets_leaves_them_alone(tmp_path: Path) -> None:
    with running(tmp_path):
        done = run(*arguments(tmp_path)[3:])
        assert done.returncode == 2
        assert "in use" in done.stderr
        with RawClient(tmp_path / "exerciser") as exerciser:
            assert exerciser.read32(3, Ext.MAGIC) == EXT_MAGIC


def test_bug_of_a_model_is_the_status(tmp_path: Path) -> None:
    """The work of a device with a bug must not pass for a sound device's."""
    (tmp_path / "buggy.py").write_text(
        "from dma_rehearsal.device.exerciser.exerciser import Exerciser\n"
        "class Buggy(Exerciser):\n"
        "    def write_intxctl(self, value):\n"
        "        raise RuntimeError('a bug in an endpoint')\n"
    )
    sockets = tmp_path / "s"
    sockets.mkdir()
    process = subprocess.Popen(
        [*arguments(sockets, "--endpoint", "buggy:Buggy", "--trace", str(tmp_path / "trace"))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with RawClient(sockets / "exerciser") as client, pytest.raises(Refused):
            client.write32(0, Reg.INTXCTL, 1)
        # At once, not when the process ends.
        events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
        (failed,) = [each for each in events if each["event"] == "model failed"]
        assert "RuntimeError('a bug in an endpoint')" in failed["text"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
    finally:
        process.kill()
        _, errors = process.communicate()
    assert b"a bug in an endpoint" in errors


def test_what_an_endpoint_prints_goes_where_the_log_does(tmp_path: Path) -> None:
    """From its import on, at once, in any language; standard output is for "ready" alone."""
    (tmp_path / "talking.py").write_text(
        "import os\n"
        "from dma_rehearsal.device.exerciser.exerciser import Exerciser\n"
        "print('imported')\n"
        "class Talking(Exerciser):\n"
        "    def write_intxctl(self, value):\n"
        "        print('written', value, 'ready', '\\udc80')\n"
        "        print('x' * 200_000)\n"
        "        os.write(1, b'from C\\n')\n"
    )
    sockets = tmp_path / "s"
    sockets.mkdir()
    log, own = tmp_path / "log", ("--endpoint", "talking:Talking")
    with log.open("wb") as errors, running(sockets, *own, cwd=tmp_path, stderr=errors) as process:
        with RawClient(sockets / "exerciser") as client:
            client.write32(0, Reg.INTXCTL, 1)
            said = log.read_text().splitlines()
        assert process.stdout is not None
        assert process.stdout.read() == b"", "nothing else, and its end"
    assert said == ["imported", "written 1 ready \\udc80", "x" * 200_000, "from C"]
