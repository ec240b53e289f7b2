# SPDX-License-Identifier: Apache-2.0
"""A run from a saved state that is of no use boots instead, once, and says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.host_harness.cli.command_line import Ending
from dma_rehearsal.host_harness.environment import build_cache, payload
from dma_rehearsal.host_harness.machine import device_process
from dma_rehearsal.host_harness.machine.launch import Launch
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict, Status, UsageError
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.run_page import page
from dma_rehearsal.host_harness.session import guest_states, run_folder
from dma_rehearsal.host_harness.session import run as run_module
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_states import Plan, Start, StartKind
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.verdict.documents.document import ENVIRONMENT
from tests import documents
from tests.unit.host_harness import images

STATE = Path("/cache/collected/0123456789abcdef")


class Stage:
    """VMs that come up or not, as ``trouble`` says of each attempt."""

    def __init__(self) -> None:
        self.trouble: list[Exception | None] = []
        self.started: list[Launch] = []
        self.ended = 0
        self.discarded: list[Path] = []
        self.devices: list[Path] = []
        self.start_then: Start | None = None
        self.lost = False
        self.vms: list[int] = []  # that the devices were told of
        self.refused = 0  # the VM that does not start, counted from 1

    def start_device(self, _stack: object, _options: object, folder: Path, *, vms: int) -> Any:
        self.vms.append(vms)
        self.devices.append(folder)
        return SimpleNamespace(folder=folder)

    @contextlib.contextmanager
    def started_vm(self, launch: Launch, _progress: Progress) -> Iterator[Any]:
        self.started.append(launch)
        if len(self.started) == self.refused:
            raise UsageError("this endpoint is refused", "name another one")
        (launch.folder / "console.log").write_text(f"start {len(self.started)}")
        try:
            yield SimpleNamespace(watch_too=lambda _others: None, folder=launch.folder)
        finally:
            self.ended += 1

    def guests(self, _vms: object, plan: Plan) -> Any:
        def begin() -> None:
            if error := self.trouble.pop(0):
                raise error

        found = SimpleNamespace(begin=begin, start=plan.start)

        def collect(_request: object) -> str:
            found.start = self.start_then or plan.start
            if self.lost:
                raise NoVerdict("collection", "the guests do not collect the same")
            return "the tests"

        found.collect = collect
        return found


@contextlib.contextmanager
def _no_initramfs(_base: Path) -> Iterator[Any]:
    with Path("/dev/null").open("rb") as file:
        yield file


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    found = Stage()
    archive: Any = SimpleNamespace(initramfs=_no_initramfs)
    plan = Plan(Start(StartKind.COLLECTED), 7, payload=archive, state=STATE)
    monkeypatch.setattr(guest_states, "plan", lambda *_words, **_flags: plan)
    monkeypatch.setattr(payload, "make", lambda _tree, _tests, *_: archive)
    monkeypatch.setattr(run_module, "started_vm", found.started_vm)
    monkeypatch.setattr(run_module, "Guests", found.guests)
    monkeypatch.setattr(device_process, "start", found.start_device)

    def discard(path: Path) -> bool:
        found.discarded.append(path)
        return True

    monkeypatch.setattr(build_cache, "discard", discard)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(run_options.parse({"seed": "7"}), Progress(quiet=True), tmp_path) as made:
        guest = images.image(Path("/image"))
        made._environment = SimpleNamespace(version="11", origin="test"), guest  # type: ignore[assignment]
        yield made


def facts(run: Run) -> Any:
    assert run.folder
    return json.loads((run.folder / "environment.json").read_text())


def test_state_that_fits_is_restored_in_every_vm(stage: Stage, run: Run) -> None:
    stage.trouble = [None]
    run.boot(2)
    assert [launch.state for launch in stage.started] == [STATE, STATE]
    assert facts(run)["start"] == {"kind": "collected", "reason": ""}
    assert documents.errors(ENVIRONMENT, facts(run)) == []
    assert not (Path(str(run.folder)) / run_folder.ASIDE).exists()
    run.conclude(Status.PASSED, tests=False)
    (line,) = (each for each in run.verdict() if each.startswith("accelerator"))
    assert "kernel 6.1; 2 VMs; restored: tests collected; seed 7" in line
    attested = json.loads((Path(str(run.folder)) / "attestations.json").read_text())
    assert (attested["start"], attested["start_reason"]) == ("collected", "")


def test_devices_start_beside_the_environment(
    stage: Stage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each VM gets the one that was started for its folder, and another after a failed attempt."""
    environment, seen = run._environment, []

    def prepare(_run: Run) -> None:
        seen.extend(stage.devices)
        run._environment = environment

    monkeypatch.setattr(Run, "prepare", prepare)
    run._environment = None
    stage.trouble = [StateUnusable("it does not load"), None]
    run.boot(2)
    folder = Path(str(run.folder))
    assert seen == [folder, folder / "vm2"]
    assert stage.devices == seen * 2
    assert stage.vms == [2] * 4
    devices: list[Any] = [launch.device for launch in stage.started]
    assert [each.folder for each in devices] == stage.devices
    assert len({id(each) for each in devices}) == 4


def test_state_of_no_use_costs_one_boot_of_all_vms(stage: Stage, run: Run) -> None:
    stage.trouble = [StateUnusable("the machine state does not load"), None]
    run.boot(2)
    assert [launch.state for launch in stage.started] == [STATE, STATE, None, None]
    assert stage.ended == 2
    assert stage.discarded == [STATE]
    assert len(run.vms) == 2
    found = facts(run)["start"]
    assert found["kind"] == "cold"
    assert "does not load" in found["reason"]
    folder = Path(str(run.folder))
    # The artefacts of both attempts, of each VM.
    assert (folder / "console.log").read_text() == "start 3"
    assert (folder / "vm2" / "console.log").read_text() == "start 4"
    assert (folder / run_folder.ASIDE / "console.log").read_text() == "start 1"
    assert (folder / run_folder.ASIDE / "vm2" / "console.log").read_text() == "start 2"
    assert (folder / "seed").exists()


@pytest.mark.parametrize("lost", [False, True])
def test_guest_that_is_lost_after_its_state_was_loaded_is_told(
    stage: Stage, run: Run, capsys: pytest.CaptureFixture[str], lost: bool
) -> None:
    """A driver that fails in a scan alone would else pass by each second run's boot."""
    error = StateUnusable("no verdict: the guest's kernel panicked\nmore")
    error.__cause__ = NoVerdict("guest ready", "the guest's kernel panicked") if lost else None
    stage.trouble = [error, None]
    run.boot()
    said = capsys.readouterr().err
    assert ("was lost, and now boots: no verdict: the guest's kernel panicked\n" in said) == lost
    assert (f"{run_folder.ASIDE}\n" in said) == lost


def test_boot_that_fails_after_a_state_is_a_loss(stage: Stage, run: Run) -> None:
    stage.trouble = [StateUnusable("it does not load"), NoVerdict("kernel", "it panics")]
    with pytest.raises(NoVerdict, match="it panics"):
        run.boot()
    assert stage.ended == 2
    assert run.vms == []


@pytest.mark.parametrize(("refused", "told"), [(1, None), (2, Start(StartKind.COLLECTED))])
def test_start_is_told_once_a_guest_has_started(
    stage: Stage, run: Run, refused: int, told: Start | None
) -> None:
    stage.refused = refused
    with pytest.raises(UsageError, match="this endpoint is refused"):
        run.boot(2)
    assert run.start == told


def test_loss_of_a_restored_guest_is_a_loss(stage: Stage, run: Run) -> None:
    stage.trouble = [NoVerdict("guest ready", "the device process ended")]
    with pytest.raises(NoVerdict, match="the device process ended"):
        run.boot()
    assert len(stage.started) == 1
    assert stage.discarded == []


def test_start_is_the_one_that_the_collection_came_to(stage: Stage, run: Run) -> None:
    stage.trouble = [None]
    run.boot()
    stage.start_then = Start(StartKind.BOOTED, "another request")
    request = Request(run.tests)
    assert run.collect(request) == "the tests"  # type: ignore[comparison-overlap]
    assert facts(run)["start"] == {"kind": "booted", "reason": "another request"}
    assert run.start == stage.start_then
    stage.start_then, stage.lost = Start(StartKind.BOOTED, "another device"), True
    with pytest.raises(NoVerdict):
        run.collect(request)
    assert facts(run)["start"]["reason"] == "another device"


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (None, "status 2"),
        (Start(StartKind.COLD, "STATE=no"), "status 2 (booted cold)"),
        (Start(StartKind.BOOTED), "status 2 (restored: booted)"),
        (Start(StartKind.COLLECTED), "status 2 (restored: tests collected)"),
    ],
)
def test_last_line_says_how_the_guest_started(start: Start | None, line: str) -> None:
    assert str(Ending(Status.USAGE, start)) == line


def test_the_verdict_does_not_depend_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_folder: Path) -> Path:
        raise KeyError("a bug of the page")

    with Run(run_options.parse({}), Progress(), tmp_path) as sound:
        sound.open_folder()
        assert sound.conclude(Status.PASSED, tests=False) is Status.PASSED
        assert any(line.startswith("page: ") for line in sound.verdict())
    monkeypatch.setattr(page, "write", broken)
    with Run(run_options.parse({}), Progress(), tmp_path / "other") as run:
        run.open_folder()
        assert run.conclude(Status.PASSED, tests=False) is Status.PASSED
        assert not any(line.startswith("page: ") for line in run.verdict())
    captured = capsys.readouterr()
    assert "report.html is not written: KeyError" in captured.out + captured.err
