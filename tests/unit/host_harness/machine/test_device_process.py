# SPDX-License-Identifier: Apache-2.0
"""The start of a device process; the host's side of its control socket."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.machine import device_process, plugged_functions
from dma_rehearsal.host_harness.machine.device_process import accesses, set_fault, set_test
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError
from tests.unit.device.processes import running

CARD = "tests.vm.functions.copy_card:CopyCard"


def test_fault_and_test_of_a_device_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with running(tmp_path, "--control-socket", str(path)):
        set_test(path, "tests/ö.py::test_a[\n\x00]")
        set_test(path, None)
        assert accesses(path) == 0
        set_fault(path, "msix-dropped")
        with pytest.raises(UsageError, match="there is no fault 'no-such'"):
            set_fault(path, "no-such")
        with pytest.raises(NoVerdict, match="does not take the test's name: a request of more"):
            set_test(path, "a" * (1 << 16))


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    for ask in (set_fault, set_test):
        with pytest.raises(NoVerdict, match="control socket does not answer"):
            ask(tmp_path / "control", None)
    with pytest.raises(NoVerdict, match="control socket does not answer"):
        accesses(tmp_path / "control")


@pytest.mark.parametrize("ask", [partial(set_test, nodeid="mine"), accesses], ids=["test", "count"])
@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[]\n", b'{"test": "other"}\n', b"\xff"])
def test_a_device_that_answers_nonsense(
    tmp_path: Path, answer: bytes, ask: Callable[[Path], object]
) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NoVerdict):
            ask(path)
        thread.join()


@pytest.mark.parametrize(("iommu", "peer"), [("", True), ("intel", False)])
def test_a_started_process_listens_when_it_is_ready(tmp_path: Path, iommu: str, peer: bool) -> None:
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse({"iommu": iommu}), tmp_path)
        process = started.await_ready()
        assert started.platform.is_socket()
        assert [each.device for each in started.functions()] == [0, 1][: 1 + peer]
        assert all(each.socket.is_socket() for each in started.functions())
        assert started.await_ready() is process
        set_test(started.sockets / device_process.SOCKET, None)
        assert process.poll() is None
    assert process.returncode is not None
    assert not started.sockets.exists()


@pytest.mark.parametrize(
    ("cpus", "vms", "spins"), [(2, 1, True), (2, 2, False), (4, 2, True), (1, 1, False)]
)
def test_a_device_process_spins_where_each_vm_has_two_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, vms: int, spins: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cpus)))
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse({}), tmp_path, vms=vms)
        words = started.process.args
        assert isinstance(words, list)
        assert ("--no-spin" in words) != spins
        started.await_ready()


@pytest.mark.parametrize(
    ("given", "slots"),
    [
        ({}, ["4", "6"]),
        ({"iommu": "intel"}, ["3"]),
        ({"endpoint": CARD}, ["4"]),
        ({"endpoint": CARD, "hotplug": "1"}, []),  # the guest numbers the buses behind ports
    ],
)
def test_a_device_process_is_told_the_slots_of_the_root_bus(
    tmp_path: Path, given: dict[str, str], slots: list[str]
) -> None:
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse(given), tmp_path)
        words = started.process.args
        assert isinstance(words, list)
        assert [after for word, after in pairwise(words) if word == "--slot"] == slots
        started.await_ready()


def test_process_that_is_ready_before_it_is_awaited_is_never_late(tmp_path: Path) -> None:
    """The environment may take minutes to make beside it."""
    options = run_options.parse({"deadline": "device up=0.001"})
    with ExitStack() as stack:
        started = device_process.start(stack, options, tmp_path)
        assert started.process.stdout is not None
        select.select([started.process.stdout], [], [], 20)
        started.await_ready()


def test_process_that_is_awaited_longer_than_its_deadline_is_late(tmp_path: Path) -> None:
    given = {"deadline": "device up=0.001", "endpoint": "tests.slow_endpoint:Slow"}
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse(given), tmp_path)
        with pytest.raises(NoVerdict, match=r"not ready within its deadline of 0\.001 s"):
            started.await_ready()


def test_an_endpoint_that_cannot_be_served_is_told_when_it_is_awaited(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse({"endpoint": "no:One"}), tmp_path)
        with pytest.raises(UsageError, match=r"ENDPOINT=no:One"):
            started.await_ready()


def test_a_process_of_a_user_says_which_functions_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boards.py").write_text(
        "from dma_rehearsal.device.exerciser.exerciser import Exerciser\n"
        "from dma_rehearsal.device.endpoints import MultiFunction\n"
        "class Card(MultiFunction):\n"
        "    functions = {0: Exerciser, 5: Exerciser}\n"
    )
    monkeypatch.chdir(tmp_path)
    given = {"endpoint": "boards:Card,examples.timer:TimerDevice"}
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse(given), tmp_path)
        found = started.functions()
        assert [(each.device, each.number, each.id) for each in found] == [
            (0, 0, "exerciser"),
            (0, 5, "exerciser.5"),
            (1, 0, "endpoint1"),
        ]
        assert all(each.socket.is_socket() for each in found)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        ["a"],
        [{"device": 0, "function": 0}],
        [{"device": 0, "function": 0, "socket": "a"}],
        [{"device": 1, "function": 0, "socket": "a", "vectors": 0}],
        [{"device": 0, "function": 8, "socket": "a", "vectors": 0}],
        [{"device": 0, "function": 0, "socket": 3, "vectors": 0}],
        [{"device": 0, "function": 0, "socket": "a", "vectors": 2049}],
        [{"device": 0, "function": 0, "socket": "a", "vectors": 0}] * 2,
    ],
)
def test_nonsense_about_functions_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="function"):
        plugged_functions.told(answer)


def test_a_process_that_dies_before_it_is_ready(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = device_process.start(stack, run_options.parse({}), tmp_path)
        started.process.kill()
        with pytest.raises(NoVerdict, match=r"is not ready \(killed by SIGKILL\)"):
            started.await_ready()
