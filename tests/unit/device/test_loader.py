# SPDX-License-Identifier: Apache-2.0
"""``--endpoint``: a class of this project, one of another folder, and everything that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.device.processes import ROOT, running
from tests.unit.vfio_user.client import RawClient

OWN = """
from enum import IntEnum
from dma_rehearsal.device.endpoints.bars import RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Register
from dma_rehearsal.device.pci.config import Identity

class Reg(IntEnum):
    MAGIC = 0

class Own(Endpoint):
    identity = Identity(vendor_id=0x1234, device_id=0x0042, class_code=0xFF0000)
    bars = {0: RegisterBar((Register(Reg.MAGIC, reset=0x4D594F57),))}

class Greedy(Own):
    def __init__(self, trace, colour):
        super().__init__(trace)

class Failing(Own):
    def __init__(self, trace):
        raise RuntimeError("out of luck")

class Forgetful(Own):
    def __init__(self, trace):
        self.colour = "red"

class Stranger:
    pass
"""

LARGE = """
class Large(Own):
    bars = {0: RegisterBar((), size=5000)}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of somebody else."""
    (tmp_path / "own_device.py").write_text(OWN)
    (tmp_path / "large_device.py").write_text(OWN + LARGE)
    (tmp_path / "broken_device.py").write_text("def (")
    (tmp_path / "needy_device.py").write_text("import no_such_library")
    return tmp_path


def call(folder: Path, *argv: str, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the device process in ``folder``; ``python``: options of the interpreter."""
    sockets = ("--endpoint-socket", str(folder / "e"), "--platform-socket", str(folder / "p"))
    return subprocess.run(
        [sys.executable, *python, "-m", "dma_rehearsal.device", *sockets, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_device", "write module:Class"),
        (":Own", "write module:Class"),
        ("no_such_module:Own", "there is no module no_such_module in"),
        ("no_such_package.own:Own", "there is no module no_such_package.own in"),
        ("broken_device:Own", "cannot be imported: SyntaxError"),
        ("needy_device:Own", "imports no_such_library, which is not there"),
        ("own_device:Owm", "has no Owm; it has Own, Greedy"),
        (
            "own_device:Stranger",
            "Stranger is not an Endpoint; subclass dma_rehearsal.device.endpoints.Endpoint",
        ),
        ("own_device:Endpoint", "Endpoint is not an Endpoint"),
        ("own_device:Greedy", "cannot be made with (trace): missing a required argument: 'colour'"),
        (
            "own_device:Greedy",
            "def __init__(self, trace=None), which calls super().__init__(trace)",
        ),
        ("own_device:Failing", "RuntimeError('out of luck')"),
        ("own_device:Failing", "cannot be made: own_device.py:"),
        ("own_device:Forgetful", "the constructor of Forgetful did not call Endpoint's"),
        ("large_device:Large", ": Large: BAR0 of 0x1388 bytes; make it a power of two"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, name: str, words: str) -> None:
    done = call(folder, "--endpoint", name)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--buffer-size", "4096"], "cannot be made with (trace, buffer_size=...)"),
        (["--fault", "msix-dropped"], "is one of the exerciser's"),
        (["--capability", "nonsense"], "--capability"),
    ],
)
def test_options_of_the_exerciser_alone(folder: Path, argv: list[str], words: str) -> None:
    done = call(folder, "--endpoint", "own_device:Own", *argv)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no_such_module:Own"], "with the module's folder current or on PYTHONPATH"),
        (["needy_device:Own"], "install no_such_library"),
        (["broken_device:Own"], "fix broken_device"),
        (["own_device:Owm"], "name a class of "),
        (["own_device:Failing"], "fix Failing"),
        (["own_device:Own", "--fault", "msix-dropped"], "leave Own out"),
    ],
)
def test_next_step_is_that_of_the_cause(folder: Path, argv: list[str], words: str) -> None:
    said = call(folder, "--endpoint", *argv).stderr.splitlines()
    assert said[-1].startswith("  next: ")
    assert words in said[-1]


@pytest.mark.parametrize("theirs", ["device.py", "device/__init__.py"])
def test_module_named_as_a_folder_of_ours_is_the_users(tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text(OWN)
    for class_name, status in ("Own", "ready\n"), ("Missing", ""):
        argv = ("--endpoint", f"device:{class_name}", "--die-with-stdin")
        done = call(tmp_path, *argv, python=["-P"])
        assert done.stdout == status, done.stderr


def test_class_of_another_folder_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with running(folder, "--endpoint", "own_device:Own"):
        with RawClient(folder / "exerciser") as client:
            assert client.read32(0, 0) == 0x4D594F57
        with RawClient(folder / "platform") as client:
            assert client.read32(7, 0) == 0xDA7A_1234


def test_peers_are_served(tmp_path: Path) -> None:
    with (
        running(tmp_path, "--peer-socket", str(tmp_path / "peer"), "--capability", "aer"),
        RawClient(tmp_path / "exerciser") as first,
        RawClient(tmp_path / "peer") as second,
    ):
        for client in first, second:
            assert client.read32(7, 0) == 0xED01_13B5
            assert client.read32(7, 0x100) & 0xFFFF == 1, "AER"
