# SPDX-License-Identifier: Apache-2.0
"""The parked agent over a socket: its messages, its modules, and the sessions that follow."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.result_frames import PROTOCOL, Message
from dma_rehearsal.guest.testkit.patterns import Patterns
from dma_rehearsal.host_harness.environment.payload import BOOT_FILES, SOURCE
from tests.unit.guest.agent.agent_process import LIMIT_S, ROOT, Guest
from tests.unit.guest.agent.fake_pci import EDU, EXERCISER, PLATFORM, FakePci

# Ends where the agent parks, and names the project's files that are in its memory then.
LOADED = """
import os, sys
from pathlib import Path
from dma_rehearsal.guest.agent import channel, init, parked

def park(channel, serve):
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "dma_rehearsal":
            print(os.path.relpath(os.path.realpath(module.__file__), sys.argv[1]))
    return 0

from dma_rehearsal.guest.linux import kernel_modules  # which the first process imports
os.setsid = lambda: None
channel.find_port = lambda: Path(os.devnull)
parked.run = park
init.GUEST_FOLDER = Path(sys.argv[1])
ready, tell = os.pipe()
os.write(tell, b"0")
sys.exit(init.run_agent(ready))
"""
# Parks on a socket, with a PCI bus, a root and files of its own.
PARK = """
import importlib.util
import sys
from pathlib import Path
from dma_rehearsal.guest.agent import init, parked, payload_files, pci_functions
from dma_rehearsal.guest.agent import saved_state, shells
from dma_rehearsal.guest.agent.channel import Channel
folder = Path(sys.argv[2])
pci_functions.PCI = folder / "pci" / "bus"
pci_functions.PROCESSES = folder / "pci" / "proc"
pci_functions.DETACHED = folder / "detached"
payload_files.ROOT = folder / "opt"
saved_state.PARAMETERS = folder / "parameters"
shells.STARTED = folder / "shells"
parked.import_neutral()
sys.path.insert(0, str(folder / "opt" / "late"))
assert not importlib.util.find_spec("helper_of_it")
sys.exit(parked.run(Channel(int(sys.argv[1])), init._serve))
"""
IMPORTED = """
import sys

def test_modules(record_property):
    record_property("modules", sorted(sys.modules))
"""
SEEDED = """
import random
import pytest
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

random.random()  # a collection that draws

def test_seed(seed, data, record_property):
    record_property("seed", seed)
    record_property("random", random.random())
    record_property("data", data.take(16).hex())
    record_property("skipped", [dma_platform.placement.skip(64, 1 << n) for n in range(6)])
"""


@pytest.fixture
def bus(tmp_path: Path) -> FakePci:
    return FakePci(tmp_path / "pci")


@pytest.fixture
def guest(tmp_path: Path, bus: FakePci) -> Iterator[Guest]:  # noqa: ARG001
    """Return an agent that is about to park; its tests are those of its folder."""
    (tmp_path / "opt").mkdir()
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        fd = theirs.fileno()
        found = Guest(tmp_path, ["-c", PARK, str(fd), str(tmp_path)], ours, pass_fds=[fd])
        theirs.close()
        stack.callback(found.process.communicate)
        stack.callback(found.process.kill)
        yield found


def answer(guest: Guest, kind: str, **message: object) -> Message:
    """Send a message and return the reply."""
    guest.channel.send({"type": kind, **message})
    return guest.receive()


def test_parked_agent_has_loaded_the_boot_files_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(SOURCE)],
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    # The packages that a payload makes empty.
    empty = {"dma_rehearsal/__init__.py", "device/__init__.py"}
    assert set(done.stdout.split()) - empty == set(BOOT_FILES)


def test_boot_files_are_named_once_and_exist() -> None:
    assert len(set(BOOT_FILES)) == len(BOOT_FILES)
    assert all((SOURCE / name).is_file() for name in BOOT_FILES)


def test_guest_parks_is_detached_resumes_and_goes(guest: Guest, bus: FakePci) -> None:
    assert guest.receive() == {"type": "parked", "protocol": PROTOCOL}
    assert answer(guest, "detach") == {"type": "detached"}
    assert bus.removed() == [EXERCISER, EDU, PLATFORM]
    resumed = answer(guest, "resume", parameters=["rehearsal.vectors=4"], attach=True)
    assert resumed["type"] == "resumed"
    assert [each["address"] for each in resumed["functions"]] == [EXERCISER, EDU, PLATFORM]
    assert (guest.folder / "parameters").read_text() == "rehearsal.vectors=4\n"
    hello = answer(guest, "go")
    assert (hello["type"], hello["protocol"]) == ("hello", PROTOCOL)
    assert answer(guest, "shutdown") == {"type": "bye"}
    assert guest.process.wait(LIMIT_S) == 0


def test_parked_guest_can_be_shut_down(guest: Guest) -> None:
    assert guest.receive()["type"] == "parked"
    assert answer(guest, "shutdown") == {"type": "bye"}
    assert guest.process.wait(LIMIT_S) == 0


def test_host_that_goes_away_ends_a_parked_agent(guest: Guest) -> None:
    guest.receive()
    guest.socket.close()
    assert guest.process.wait(LIMIT_S) == 1
    assert guest.said() == "agent: writing to the host failed: [Errno 32] Broken pipe\n"


def test_held_device_is_a_refusal_and_the_guest_goes_on(guest: Guest, bus: FakePci) -> None:
    assert guest.receive()["type"] == "parked"
    bus.process(5, opens="/dev/dma-rehearsal-pci0")
    assert "process 5 (holder)" in answer(guest, "detach")["refused"]
    assert bus.removed() == []
    assert answer(guest, "go")["type"] == "hello"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "configure", "seed": 1}, "sent configure to a parked agent"),
        ({"type": "execute", "argv": ["true"], "timeout": 1}, "sent execute to a parked agent"),
        ({"type": "resume", "parameters": "rehearsal.soak=1"}, "not a list of words"),
        ({"type": "files", "remove": ["../x"]}, "not a path below"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_wrong_request_to_a_parked_guest_ends_it(
    guest: Guest, message: Message, words: str
) -> None:
    assert guest.receive()["type"] == "parked"
    guest.channel.send(message)
    last = guest.receive()
    assert last["type"] == "error"
    assert words in last["text"]
    assert guest.process.wait(LIMIT_S) == 1


def test_function_that_does_not_come_back_ends_the_guest(guest: Guest, bus: FakePci) -> None:
    assert guest.receive()["type"] == "parked"
    answer(guest, "detach")
    (bus.devices / EXERCISER / "driver").unlink()
    guest.channel.send({"type": "resume", "attach": True})
    last = guest.receive()
    assert last["type"] == "error"
    assert "had dma_rehearsal" in last["text"]


@pytest.mark.parametrize("fault", [None, "allocator-writable-after-out"])
def test_files_that_came_while_parked_are_what_is_tested(guest: Guest, fault: str | None) -> None:
    """Their folder did not exist when the agent looked for a module there."""
    assert guest.receive()["type"] == "parked"
    files = {
        "it/test_it.py": "from helper_of_it import N\n\ndef test_it():\n    assert N == 7\n",
        "late/helper_of_it.py": "N = 7\n",
    }
    coded = [
        [name, 0o644, base64.b64encode(text.encode()).decode()] for name, text in files.items()
    ]
    assert answer(guest, "files", files=coded) == {"type": "filed"}
    assert answer(guest, "go")["type"] == "hello"
    guest.send_configuration(str(guest.folder / "opt" / "it"), fault=fault)
    (item,) = guest.receive()["items"]
    assert [each["outcome"] for each in guest.run(item["nodeid"])] == ["passed"] * 3
    assert guest.end()[0] == {"type": "ended", "ran": 1}


def configuration(guest: Guest, seed: int) -> Message:
    folder = str(guest.folder / "tests")
    return {"args": [folder], "named": True, "seed": seed, "place": "hostile", "own": False}


@pytest.mark.parametrize("saved", [False, True])
def test_what_some_sessions_import_is_in_a_saved_guest_alone(guest: Guest, saved: bool) -> None:
    (guest.folder / "tests").mkdir()
    (guest.folder / "tests" / "test_modules.py").write_text(IMPORTED)
    guest.receive()
    if saved:
        answer(guest, "detach")
        answer(guest, "resume", attach=True)
    answer(guest, "go")
    (item,) = answer(guest, "configure", **configuration(guest, 5))["items"]
    modules = seen(guest, item["nodeid"])["modules"]
    assert ("hypothesis.stateful" in modules) is saved
    assert {"pytest", "_pytest.junitxml", "asyncio"} <= set(modules)


def seen(guest: Guest, nodeid: str) -> dict[str, Any]:
    """Run the test that tells what its seed gives it."""
    _, call, _ = guest.run(nodeid)
    assert call["outcome"] == "passed", call["longrepr"]
    return dict(call["user_properties"])


def test_collected_session_goes_on_with_another_seed_as_if_configured_with_it(
    guest: Guest, bus: FakePci
) -> None:
    (guest.folder / "tests").mkdir()
    (guest.folder / "tests" / "test_seed.py").write_text(SEEDED)
    guest.receive()
    answer(guest, "go")
    found = []
    for configured, resumed in (11, None), (5, 11), (5, None):
        (item,) = answer(guest, "configure", **configuration(guest, configured))["items"]
        if resumed is not None:
            assert answer(guest, "detach") == {"type": "detached"}
            random_state = {"clock": None, "entropy": None}
            said = answer(guest, "resume", attach=True, seed=resumed, **random_state)
            assert said["type"] == "resumed"
        found.append(seen(guest, item["nodeid"]))
        assert answer(guest, "end") == {"type": "ended", "ran": 1}
    eleven, resumed_as_eleven, five = found
    assert resumed_as_eleven == eleven
    assert eleven["seed"] == 11
    assert eleven["random"] == random.Random(11).random()
    assert eleven["data"] == Patterns(11, item["nodeid"]).take(16).hex()
    assert all(five[key] != eleven[key] for key in eleven)
    assert bus.removed() == [EXERCISER, EDU, PLATFORM]


def test_guest_is_detached_and_resumes_between_sessions(guest: Guest) -> None:
    guest.receive()
    answer(guest, "go")
    assert answer(guest, "detach") == {"type": "detached"}
    said = answer(guest, "resume", attach=True, parameters=["rehearsal.soak=1"], seed=3)
    assert said["type"] == "resumed"
    assert (guest.folder / "parameters").read_text() == "rehearsal.soak=1\n"
    assert answer(guest, "shutdown") == {"type": "bye"}


def test_wrong_resume_of_a_session_ends_it(guest: Guest) -> None:
    (guest.folder / "tests").mkdir()
    guest.receive()
    answer(guest, "go")
    answer(guest, "configure", **configuration(guest, 5))
    last = answer(guest, "resume", attach=False, seed="eleven")
    assert last["type"] == "error"
    assert "seed is 'eleven', not an integer" in last["text"]
    assert guest.process.wait(LIMIT_S) == 1
