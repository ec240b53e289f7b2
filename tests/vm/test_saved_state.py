# SPDX-License-Identifier: Apache-2.0
"""Guests of the real QEMU are saved and restored, and nothing is left where that fails."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    accelerator,
    build_cache,
    guest_image,
    kernel_tree,
    qemu,
)
from dma_rehearsal.host_harness.environment import payload as payloads
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.machine.launch import Launch, started_vm
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import agent_client
from dma_rehearsal.host_harness.session.worker import Worker
from tests.processes import processes_that_name
from tests.vm.one_vm import SEED, OneSession, OneVm

FILE = "test_direction.py"


@dataclass(frozen=True)
class Saved:
    """The states of a guest that booted once, its functions, and the tests that it collected."""

    start: Launch
    booted: Path
    collected: Path
    functions: object
    tests: agent_client.Collected

    @contextmanager
    def restored(self, state: Path, folder: Path, **options: str) -> Iterator[Vm]:
        """A VM that is restored from one of the states, in a folder of its own."""
        folder.mkdir()
        given = run_options.parse({"seed": str(SEED), **options})
        launch = replace(self.start, folder=folder, options=given, initramfs=None, state=state)
        with started_vm(launch, Progress(quiet=True)) as vm:
            yield vm


@pytest.fixture(scope="module")
def saved(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """Boot a guest, save it twice, and see that it still runs a test."""
    base = tmp_path_factory.mktemp("saved")
    for name in ("vm", "booted", "collected"):
        (base / name).mkdir()
    options = run_options.parse({"seed": str(SEED), "deadline": "kernel=300"})
    found, image = qemu.find(print), guest_image.make(kernel_tree.DEFAULT, print)
    chosen, _ = accelerator.choose(found, image.kernel, options.accel)
    request = agent_client.Request(GuestTests(selected=(f"suite/{FILE}",)))
    with ExitStack() as stack:
        stack.callback(build_cache.release)
        archive = stack.enter_context(
            payloads.make(image.tree, request.tests).initramfs(*image.archives)
        )
        start = Launch(found, chosen, image, base / "vm", options, archive.fileno(), isolated=True)
        with started_vm(start, Progress(quiet=True)) as vm:
            vm.await_parked()
            assert not vm.detach()
            saved_state.save(vm, base / "booted", {})
            functions = vm.resume(attach=True)["functions"]
            vm.go()
            tests = agent_client.collect([vm], request, SEED)
            assert not vm.detach()
            saved_state.save(vm, base / "collected", {"hello": vm.hello})
            assert vm.resume(attach=True, seed=SEED)["functions"] == functions
            session = OneSession(Worker(vm, iommu=False), tests.items, pytestconfig)
            check(session, tests)
            vm.end_session(1)
            vm.power_off()
        yield Saved(start, base / "booted", base / "collected", functions, tests)


def check(session: OneSession, tests: agent_client.Collected) -> None:
    """Run the first of the tests; it must pass, with every promise kept."""
    ledger = session.run(tests.items[0])
    sound = ledger.passed, ledger.failed, ledger.objections()
    assert sound == (1, 0, []), ledger.complaints()
    assert ledger.promises


def resume(vm: Vm, saved: Saved) -> None:
    """Have a restored guest go on; its functions must be as they were."""
    now = {"clock": time.time(), "entropy": secrets.token_hex(32), "seed": SEED}
    assert vm.resume(attach=True, **now)["functions"] == saved.functions


@pytest.mark.full  # test_starts.py has its short form, by whole runs
def test_booted_guest_is_restored(
    saved: Saved, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    with saved.restored(saved.booted, tmp_path / "vm") as vm:
        resume(vm, saved)
        vm.go()
        with OneVm(vm, pytestconfig, iommu=False).session(FILE) as session:
            check(session, saved.tests)
        vm.power_off()
    assert "init: up" in (tmp_path / "vm" / saved_state.BOOT_CONSOLE).read_text()
    assert "init: up" not in (tmp_path / "vm" / "console.log").read_text()


@pytest.mark.full
def test_guest_with_collected_tests_is_restored_twice_at_once(
    saved: Saved, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    with (
        saved.restored(saved.collected, tmp_path / "1") as one,
        saved.restored(saved.collected, tmp_path / "2") as two,
    ):
        for vm in one, two:
            resume(vm, saved)
            vm.hello = saved_state.facts(saved.collected)["hello"]
        for vm in one, two:
            session = OneSession(Worker(vm, iommu=False), saved.tests.items, pytestconfig)
            check(session, saved.tests)
            vm.end_session(1)
            vm.power_off()


@pytest.mark.full
def test_restored_guest_can_be_saved_again(saved: Saved, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    with saved.restored(saved.booted, tmp_path / "1") as vm:
        resume(vm, saved)
        vm.go()
        assert not vm.detach()
        saved_state.save(vm, again, {})
        resume(vm, saved)
        vm.power_off()
    with saved.restored(again, tmp_path / "2") as vm:
        resume(vm, saved)
        vm.power_off()
    assert "init: up" in (tmp_path / "2" / saved_state.BOOT_CONSOLE).read_text()


ASKED = "import os, time; print(time.time(), os.urandom(16).hex())"
"""A program for the guest, which prints its clock and 128 random bits."""


@pytest.mark.full
def test_guests_of_one_state_have_their_own_time_random_numbers_and_parameters(
    saved: Saved, tmp_path: Path
) -> None:
    drawn = set()
    for profile, clock in ("nic-32", 2.0e9), ("isa-24", 2.1e9):
        with saved.restored(saved.booted, tmp_path / profile, profile=profile) as vm:
            vm.resume(attach=True, clock=clock, entropy=secrets.token_hex(32))
            vm.go()
            said = vm.execute(["python3", "-c", ASKED], timeout_s=60)
            seconds, random = str(said["stdout"]).split()
            assert clock <= float(seconds) < clock + 1e6
            drawn.add(random)
            said = vm.execute(["cat", "/run/dma-rehearsal/parameters"], timeout_s=60)
            assert str(said["stdout"]).split() == list(vm.parameters)
            vm.power_off()
    assert len(drawn) == 2


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "ram": (lambda state: _flip(state / "ram"), "ram: its contents changed"),
    "short ram": (lambda state: os.truncate(state / "ram", 1 << 20), "ram: it is truncated"),
    "machine": (lambda state: _flip(state / "machine"), "machine: its contents changed"),
    "no machine": (lambda state: (state / "machine").unlink(), "machine: No such file"),
}


def check_nothing_is_left(folder: Path) -> None:
    assert not processes_that_name(str(folder))
    assert not [each.name for each in threading.enumerate() if "ram" in each.name.lower()]


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Path:
    """A copy of the booted state, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved.booted.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.full
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_state_leaves_nothing(saved: Saved, copy: Path, tmp_path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    damage(copy)
    start = time.monotonic()
    with (
        pytest.raises(StateUnusable, match=said),
        saved.restored(copy, tmp_path / "vm"),
    ):
        pytest.fail("a guest came of it")
    assert time.monotonic() - start < 30
    check_nothing_is_left(tmp_path)


def _replace_machine(state: Path, machine: bytes) -> None:
    """Replace the machine state by one with a checksum that is right, so that QEMU sees it."""
    (state / "machine").write_bytes(machine)
    facts = state / saved_state.FACTS
    kept = json.loads(json.loads(facts.read_text())["state"])
    kept["machine"] = {"size": len(machine), "crc": zlib.crc32(machine)}
    text = json.dumps(kept)
    facts.write_text(json.dumps({"crc": zlib.crc32(text.encode()), "state": text}))


REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda machine: machine[: len(machine) // 2],
    "other version": lambda machine: machine[:4] + b"\xff" * 4 + machine[8:],
    "unknown device": lambda machine: machine.replace(b"\x06ioapic", b"\x06i0apic"),
}


@pytest.mark.full
@pytest.mark.parametrize("name", REFUSED)
def test_state_that_qemu_refuses_leaves_nothing(
    saved: Saved, copy: Path, tmp_path: Path, name: str
) -> None:
    machine = (copy / "machine").read_bytes()
    changed = REFUSED[name](machine)
    assert changed != machine
    _replace_machine(copy, changed)
    start = time.monotonic()
    with (
        pytest.raises(StateUnusable, match="QEMU does not load the state"),
        saved.restored(copy, tmp_path / "vm"),
    ):
        pytest.fail("a guest came of it")
    assert time.monotonic() - start < 30
    check_nothing_is_left(tmp_path)
