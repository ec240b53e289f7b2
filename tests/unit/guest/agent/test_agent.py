# SPDX-License-Identifier: Apache-2.0
"""The agent over a socket, as the host drives it, with tests of a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.result_frames import HEADER, MAGIC, PROTOCOL, Message
from tests.unit.guest.agent.agent_process import LIMIT_S, ROOT, Guest

GUEST = ROOT / "guest"
SERVE = """
import sys
from dma_rehearsal.guest.agent import channel, main as agent
sys.exit(agent.serve(channel.Channel(int(sys.argv[1]))))
"""


Start = Callable[..., Guest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an agent; the files of its folder are given as name="text"."""
    with contextlib.ExitStack() as stack:

        def begin(**files: str) -> Guest:
            for name, text in files.items():
                (tmp_path / f"{name}.py").write_text(text)
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            fd = theirs.fileno()
            guest = Guest(tmp_path, ["-c", SERVE, str(fd)], ours, pass_fds=[fd])
            theirs.close()
            stack.callback(guest.process.communicate)
            stack.callback(guest.process.kill)
            return guest

        yield begin


TWO = """
import pytest

@pytest.mark.promise("alignment")
@pytest.mark.parametrize("size", [1, 64])
def test_one(size):
    print("words of the test")

def test_two():
    assert 1 == 2, "two is wrong"
"""


def test_hello_and_collection(start: Start) -> None:
    guest = start(test_it=TWO)
    hello = guest.receive()
    assert (hello["type"], hello["protocol"]) == ("hello", PROTOCOL)
    assert hello["pytest"] == pytest.__version__
    guest.channel.send({"type": "configure", "args": [str(guest.folder)], "named": True, "seed": 1})
    collected = guest.receive()
    assert collected["errors"] == []
    first, second, third = collected["items"]
    assert [item["name"] for item in (first, second, third)] == [
        "test_one[1]",
        "test_one[64]",
        "test_two",
    ]
    assert first["nodeid"].endswith("test_it.py::test_one[1]")
    assert first["path"].endswith("test_it.py")
    assert third["lineno"] == 8
    assert (first["promises"], third["promises"]) == (["alignment"], [])
    assert {"promise", "test_one[1]"} <= set(first["keywords"])
    assert guest.end() == ({"type": "ended", "ran": 0}, 0)


CASES = """
import pytest

class TestOne:
    @pytest.mark.parametrize("size", [1, 2])
    def test_it(self, size): ...

class TestTwo:
    def test_it(self): ...

@pytest.mark.parametrize("size", [1, 2])
def test_it(size): ...
"""


def test_each_test_has_its_line(start: Start) -> None:
    guest = start(test_it=CASES)
    guest.configure()
    found = {each["nodeid"].partition("::")[2]: each["lineno"] for each in guest.receive()["items"]}
    assert found == {
        "TestOne::test_it[1]": 4,
        "TestOne::test_it[2]": 4,
        "TestTwo::test_it": 8,
        "test_it[1]": 10,
        "test_it[2]": 10,
    }


def test_suite_of_this_checkout_collects(start: Start) -> None:
    guest = start()
    guest.configure(str(GUEST / "suite"))
    collected = guest.receive()
    assert collected["errors"] == []
    names = [item["nodeid"] for item in collected["items"]]
    assert "suite/test_direction.py::test_in[1024]" in names
    assert all(name.startswith("suite/test_") for name in names)
    silent = [item["nodeid"] for item in collected["items"] if not item["promises"]]
    assert silent == [], "every test says what it is about"


def test_reports_are_pytests_own(start: Start, request: pytest.FixtureRequest) -> None:
    """The host runs what it chose, in its own order, and again."""
    guest = start(test_it=TWO)
    names = guest.collect()
    hook = request.config.hook
    whole = {
        name: [
            hook.pytest_report_from_serializable(config=request.config, data=data)
            for data in guest.run(names[name])
        ]
        for name in ("test_two", "test_one[1]")
    }
    assert all(isinstance(each, pytest.TestReport) for each in whole["test_two"])
    assert [(each.when, each.outcome) for each in whole["test_two"]] == [
        ("setup", "passed"),
        ("call", "failed"),
        ("teardown", "passed"),
    ]
    assert "two is wrong" in whole["test_two"][1].longreprtext
    assert whole["test_one[1]"][1].passed
    assert whole["test_one[1]"][1].capstdout == "words of the test\n"
    assert len(guest.run(names["test_two"])) == 3
    assert guest.end() == ({"type": "ended", "ran": 3}, 0)


SKIPS = """
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("no device")

def test_broken(broken): ...

def test_skips():
    pytest.skip("not here")
"""


def test_failed_setup_and_skip(start: Start) -> None:
    guest = start(test_it=SKIPS)
    names = guest.collect()
    outcomes = [(each["when"], each["outcome"]) for each in guest.run(names["test_broken"])]
    assert outcomes == [("setup", "failed"), ("teardown", "passed")]
    assert [each["outcome"] for each in guest.run(names["test_skips"])][1] == "skipped"
    assert guest.end() == ({"type": "ended", "ran": 2}, 0)


SCOPES = """
import pathlib
import pytest

LOG = pathlib.Path(__file__).with_name("log")

def note(text):
    with LOG.open("a") as file:
        file.write(text + " ")

@pytest.fixture(scope="session")
def whole():
    note("session-up")
    yield
    note("session-down")

@pytest.fixture(scope="module")
def module(whole, request):
    note("up-" + request.module.__name__[-1])
    yield
    note("down-" + request.module.__name__[-1])

def test_first(module): note("1")
def test_second(module): note("2")
"""


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), {"source"}),
        (("--tb=line",), set()),
        (("--tb=no",), set()),
        (("--showlocals",), {"source", "local"}),
        (("--tb=long", "--showlocals"), {"source", "local"}),
    ],
)
def test_options_for_the_reports_of_failures(
    start: Start, options: tuple[str, ...], shown: set[str]
) -> None:
    guest = start(test_divides="def test_divides(size=0):\n    frame = 7\n    1 / size\n")
    guest.configure(str(guest.folder), *options)
    (item,) = guest.receive()["items"]
    report = guest.run(item["nodeid"])[1]
    guest.end()
    text = json.dumps(report["longrepr"])
    assert "ZeroDivisionError" in text
    parts = {"source": "def test_divides", "local": "frame      = 7"}
    assert {part for part, words in parts.items() if words in text} == shown


def test_fixtures_last_as_long_as_the_host_says(start: Start) -> None:
    guest = start(test_a=SCOPES)
    names = guest.collect()
    guest.run(names["test_first"], names["test_second"])
    log = guest.folder / "log"
    assert log.read_text() == "session-up up-a 1 "
    guest.run(names["test_second"], None)
    assert log.read_text() == "session-up up-a 1 2 down-a session-down "
    assert guest.end()[0]["type"] == "ended"


def test_host_that_stops_early_gets_the_teardown(start: Start) -> None:
    guest = start(test_a=SCOPES)
    names = guest.collect()
    guest.run(names["test_first"], names["test_second"])
    assert guest.end() == ({"type": "ended", "ran": 1}, 0)
    assert (guest.folder / "log").read_text() == "session-up up-a 1 down-a session-down "


LEFT_BEHIND = """
import pathlib, weakref
FOLDER = pathlib.Path(__file__).parent

class Node: ...

def test_circle():
    node = Node()
    node.itself = node
    weakref.finalize(node, (FOLDER / "collected").touch).atexit = False
"""
AT_THE_END = """
import gc, pathlib

def pytest_sessionfinish():
    (pathlib.Path(__file__).parent / "frozen").write_text(str(gc.get_freeze_count()))
"""


def test_end_collects_what_tests_left_and_looks_at_nothing_else(start: Start) -> None:
    """Under emulation a look at all modules and tests takes longer than a short run's tests."""
    guest = start(test_it=LEFT_BEHIND, conftest=AT_THE_END)
    guest.configure()
    (item,) = guest.receive()["items"]
    guest.run(item["nodeid"])
    assert guest.end() == ({"type": "ended", "ran": 1}, 0)
    assert (guest.folder / "collected").exists()
    assert int((guest.folder / "frozen").read_text()) > 1000


def test_teardown_that_fails_after_an_early_stop_is_reported(start: Start) -> None:
    guest = start(test_a=SCOPES.replace('note("session-down")', 'pytest.fail("does not let go")'))
    names = guest.collect()
    guest.run(names["test_first"], names["test_second"])
    last, status = guest.end()
    assert (last["type"], status) == ("error", 1)
    assert "does not let go" in last["text"]


def test_collection_error_is_reported(start: Start) -> None:
    guest = start(test_it="import nothing_of_that_name", test_other=TWO)
    guest.configure()
    collected = guest.receive()
    (error,) = collected["errors"]
    assert error["nodeid"].endswith("test_it.py")
    assert "nothing_of_that_name" in error["longrepr"]
    assert len(collected["items"]) == 3
    assert guest.end() == ({"type": "ended", "ran": 0}, 0)


def test_folder_without_tests(start: Start) -> None:
    guest = start()
    assert guest.collect() == {}
    assert guest.end() == ({"type": "ended", "ran": 0}, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fault": "allocator-nonsense"}, "no fault 'allocator-nonsense'"),
        ({"seed": "many"}, "many"),
    ],
)
def test_settings_that_cannot_be_are_an_error(
    start: Start, settings: dict[str, Any], words: str
) -> None:
    guest = start(test_it=TWO)
    guest.configure(**settings)
    last = guest.receive()
    assert last["type"] == "error"
    assert words in last["text"]
    assert guest.process.wait(LIMIT_S) == 1


def test_fault_of_another_part_is_not_the_guests(start: Start) -> None:
    guest = start(test_it=TWO)
    assert guest.collect(fault="device-read-flip")
    assert guest.end()[0]["type"] == "ended"


PROMISED = """
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparations

def test_sound(record_property):
    record_property("here", Preparations.check.__module__)
"""


def test_fault_ends_with_its_session(start: Start) -> None:
    """The next session of the same agent is without, and on the same channel."""
    guest = start(test_it=PROMISED)
    heard: list[Any] = []
    for fault in None, "allocator-writable-after-out", None:
        names = (guest.collect_again if heard else guest.collect)(fault=fault)
        _, call, _ = guest.run(names["test_sound"])
        heard.append(call["user_properties"])
        guest.channel.send({"type": "end"})
        assert guest.receive() == {"type": "ended", "ran": 1}
    guest.channel.send({"type": "shutdown"})
    assert guest.receive() == {"type": "bye"}
    assert guest.process.wait(LIMIT_S) == 0
    sound, broken = (
        "dma_rehearsal.guest.iobuffer.descriptors.preparation",
        "dma_rehearsal.guest.faults.buffers",
    )
    assert heard == [[["here", sound]], [["here", broken]], [["here", sound]]]


def test_path_that_is_not_there_is_named(start: Start) -> None:
    guest = start()
    guest.configure("suite/test_nothing.py")
    last = guest.receive()
    assert last["type"] == "unusable"
    assert "suite/test_nothing.py" in last["text"]


BESIDE = """
from helper_of_tests import NUMBER

def test_number():
    assert NUMBER == 7
"""


def test_module_beside_a_test_is_found_as_in_plain_pytest(start: Start) -> None:
    guest = start(test_it=BESIDE, helper_of_tests="NUMBER = 7\n")
    names = guest.collect()
    assert [each["outcome"] for each in guest.run(names["test_number"])] == ["passed"] * 3
    guest.end()


def test_module_in_the_folder_of_a_package_of_tests_is_found(start: Start) -> None:
    guest = start(helper_of_tests="NUMBER = 7\n")
    package = guest.folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "test_it.py").write_text(BESIDE)
    assert list(guest.collect()) == ["test_number"]
    guest.end()


def test_modules_of_one_name_in_two_folders_are_an_error_that_names_both(start: Start) -> None:
    guest = start()
    for name in "one", "two":
        folder = guest.folder / name
        folder.mkdir()
        (folder / "helper_of_tests.py").write_text("NUMBER = 7\n")
        (folder / f"test_{name}.py").write_text(BESIDE)
    guest.configure()
    collected = guest.receive()
    words = collected["errors"][0]["longrepr"]
    for name in "one", "two":
        assert str(guest.folder / name / "helper_of_tests.py") in words
    assert "rename one of them" in words
    guest.end()


def test_module_of_the_rig_is_not_hidden_by_one_beside_a_test(start: Start) -> None:
    guest = start()
    folder = guest.folder / "tests"
    folder.mkdir()
    (folder / "exerciser.py").touch()
    test = (
        "from dma_rehearsal.guest.drivers import exerciser\n\n"
        "def test_it():\n    assert exerciser.Exerciser\n"
    )
    (folder / "test_it.py").write_text(test)
    names = guest.collect()
    assert [each["outcome"] for each in guest.run(names["test_it"])] == ["passed"] * 3
    guest.end()


HARD = """
import os, signal, pytest

def test_exit(): pytest.exit("enough of it")
def test_dies(): os.kill(os.getpid(), signal.SIGSEGV)
def test_prints(): print("x" * 1_000_000 + "the end")
def test_property(record_property): record_property("seen", {1})
"""


def test_test_that_ends_pytest_is_an_error(start: Start) -> None:
    guest = start(test_it=HARD)
    nodeid = guest.collect()["test_exit"]
    guest.channel.send({"type": "run", "nodeid": nodeid, "next": None})
    assert guest.receive()["type"] == "start"
    last = guest.receive()
    assert last["type"] == "error"
    assert "enough of it" in last["text"]


def test_crash_is_an_end_of_stream_and_on_the_console(start: Start) -> None:
    guest = start(test_it=HARD)
    nodeid = guest.collect()["test_dies"]
    guest.channel.send({"type": "run", "nodeid": nodeid, "next": None})
    assert guest.receive()["type"] == "start"
    with pytest.raises(EOFError):
        guest.receive()
    assert guest.process.wait(LIMIT_S) == -signal.SIGSEGV
    assert "in test_dies" in guest.said()


def test_report_fits_a_frame(start: Start) -> None:
    """Long output is clipped to its end; a property that is not JSON goes as its repr()."""
    guest = start(test_it=HARD)
    names = guest.collect()
    _, call, _ = guest.run(names["test_prints"])
    ((_, text),) = call["sections"]
    assert text.endswith("xthe end\n")
    assert "characters left out" in text
    assert len(text) < 300_000
    _, call, _ = guest.run(names["test_property"])
    assert call["user_properties"] == [["seen", "{1}"]]


def test_corrupted_frame_ends_the_run(start: Start) -> None:
    guest = start(test_it=TWO)
    guest.collect()
    payload = b'{"type": "end"}'
    guest.socket.settimeout(LIMIT_S)
    guest.socket.sendall(HEADER.pack(MAGIC, len(payload), 1, 0) + payload)
    last = guest.receive()
    assert last["type"] == "error"
    assert "checksum" in last["text"]
    assert guest.process.wait(LIMIT_S) == 1


@pytest.mark.parametrize(
    "message", [{"type": "run", "nodeid": "nowhere"}, {"type": "dance"}], ids=["nodeid", "type"]
)
def test_request_that_makes_no_sense_ends_the_run(start: Start, message: Message) -> None:
    guest = start(test_it=TWO)
    guest.collect()
    guest.channel.send(message)
    last = guest.receive()
    assert last["type"] == "error"
    assert str(message["type"]) in last["text"]


def test_host_that_goes_away_ends_the_agent(start: Start) -> None:
    guest = start(test_it=TWO)
    guest.collect()
    guest.socket.close()
    assert guest.process.wait(LIMIT_S) != 0


def test_port_by_path(tmp_path: Path) -> None:
    """As in the guest: a character device that is opened by its path."""
    (tmp_path / "test_it.py").write_text(TWO)
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    near, far = socket.socketpair()
    with near, far:
        guest = Guest(
            tmp_path, ["-m", "dma_rehearsal.guest.agent.main", "--port", os.ttyname(theirs)], near
        )
        try:
            _relay_until_end(guest, far, ours)
        finally:
            guest.process.kill()
            guest.process.communicate()
            os.close(ours)
            os.close(theirs)


def _relay_until_end(guest: Guest, far: socket.socket, port: int) -> None:
    """Carry bytes between the channel's far end and the port while the host does one run."""

    def carry_in() -> None:
        while data := far.recv(1 << 16):
            os.write(port, data)

    def carry_out() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(port, 1 << 16):
                far.sendall(data)

    for work in carry_in, carry_out:
        threading.Thread(target=work, daemon=True).start()
    names = guest.collect()
    assert len(guest.run(names["test_one[64]"])) == 3
    assert guest.end() == ({"type": "ended", "ran": 1}, 0)


@pytest.mark.parametrize("says_so", [True, False])
def test_test_that_a_hook_drops_is_named_unless_the_hook_says_so(
    start: Start, says_so: bool
) -> None:
    hook = "def pytest_collection_modifyitems(config, items):\n"
    say = "    config.hook.pytest_deselected(items=[items[-1]])\n" if says_so else ""
    guest = start(test_it=TWO, conftest=f"{hook}{say}    del items[-1]\n")
    guest.configure()
    collected = guest.receive()
    assert collected["count"] == len(collected["items"]) == 2
    assert [each.rpartition("::")[2] for each in collected["dropped"]] == ["test_two"] * (
        not says_so
    )


WARNS = """
import warnings

def test_warns():
    warnings.warn("old", FutureWarning)
"""


def test_warnings_come_with_the_end_of_their_test(start: Start) -> None:
    guest = start(test_it=WARNS)
    (nodeid,) = guest.collect().values()
    guest.channel.send({"type": "run", "nodeid": nodeid, "next": None})
    while (message := guest.receive())["type"] != "finish":
        pass
    ((said,),) = [message["warnings"]]
    assert (said["category"], said["message"], said["line"]) == ("FutureWarning", "old", 5)


PARTS = """
def test_parts(subtests):
    with subtests.test(number=1):
        pass
    with subtests.test(number=2):
        assert False
"""


def test_parts_of_a_test_have_reports_of_their_own(start: Start) -> None:
    guest = start(test_it=PARTS)
    (nodeid,) = guest.collect().values()
    found = [(each["when"], each["outcome"]) for each in guest.run(nodeid)]
    assert found == [
        ("setup", "passed"),
        ("call", "passed"),
        ("call", "failed"),
        ("call", "passed"),
        ("teardown", "passed"),
    ]
