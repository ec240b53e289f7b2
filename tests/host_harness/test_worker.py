"""A test is judged by what the host saw in the VM that ran it, and in no other."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host_harness.guest_tests import Outcome
from host_harness.worker import Worker

FAULT = "DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x5000 [fault reason 0x05]"


def report(when: Any, outcome: Any = "passed") -> pytest.TestReport:
    location = ("suite/test_x.py", 1, "test_x")
    return pytest.TestReport("suite/test_x.py::test_x", location, {}, outcome, None, when)


def made(folder: Path, *, iommu: bool = False) -> Worker:
    folder.mkdir()
    (folder / "device-trace.jsonl").touch()
    (folder / "console.log").touch()
    vm: Any = SimpleNamespace(
        folder=folder, set_test=str, console=SimpleNamespace(catch_up=lambda: None)
    )
    return Worker(vm, iommu=iommu)


def does(worker: Worker, **event: Any) -> None:
    with (worker.vm.folder / "device-trace.jsonl").open("a") as trace:
        trace.write(json.dumps(event) + "\n")


def passed() -> Outcome:
    return Outcome([report("setup"), report("call"), report("teardown")], witnessed=False)


def test_each_has_the_trace_of_its_own_device(tmp_path: Path) -> None:
    busy, silent = (made(tmp_path / name) for name in ("1", "2"))
    does(busy, event="dma", status="NONE")
    does(silent, event="reset")  # what whoever runs makes a device do
    assert (busy.see(passed()).by_device, silent.see(passed()).by_device) == (True, False)
    assert not busy.see(passed()).by_device, "that was the last test's"
    assert (busy.ran, silent.ran) == (2, 1)


def test_each_has_the_faults_of_its_own_iommu(tmp_path: Path) -> None:
    one, two = (made(tmp_path / name, iommu=True) for name in ("1", "2"))
    with (two.vm.folder / "console.log").open("a") as console:
        console.write(f"{FAULT} PTE Write access is not set\r\n")
    outcome = passed()
    assert not one.see(passed()).faults.told
    assert [each.source for each in two.see(outcome).faults.told] == ["00:03.0"]
    assert [name for name, _ in outcome.reports[-1].user_properties] == ["IOMMU faults"]


def test_reports_of_the_cache_model_that_no_test_took(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    words = {"kind": "RELEASED_DIRTY", "missing": "SYNC_FOR_DEVICE_AFTER_STORE"}
    words |= {"by": "UNTRACK", "last": "NO_SNOOP_READ", "expected": "01", "seen": "02"}
    fields = ("tag", "other", "offset", "line", "lines", "number", "last_number")
    mistake = {"event": "cache report"} | words | dict.fromkeys(fields, 1)
    does(worker, **mistake)
    assert len(worker.see(passed()).mistakes) == 1
    does(worker, **mistake)
    assert len(worker.late_mistakes()) == 1
    assert worker.late_mistakes() == []


def test_failed_test_did_not_pass(tmp_path: Path) -> None:
    outcome = Outcome([report("setup"), report("call", "failed"), report("teardown")], False)
    assert not made(tmp_path / "1").see(outcome).passed
