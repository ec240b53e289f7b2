# SPDX-License-Identifier: Apache-2.0
"""A test is judged by what the host saw in the VM that ran it, and in no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session.agent_client import Outcome
from dma_rehearsal.host_harness.session.worker import Seen, Worker
from dma_rehearsal.host_harness.verdict import host_view
from tests.unit.host_harness import driver_traces, traces
from tests.unit.host_harness.machine.saved_states import REGISTERS, SavingQemu

FAULT = "DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x5000 [fault reason 0x05]"


def report(when: Any, outcome: Any = "passed") -> pytest.TestReport:
    location = ("suite/test_x.py", 1, "test_x")
    return pytest.TestReport("suite/test_x.py::test_x", location, {}, outcome, None, when)


def made(folder: Path, *, iommu: bool = False) -> Worker:
    folder.mkdir()
    (folder / "device-trace.jsonl").touch()
    (folder / "console.log").touch()
    vm: Any = SimpleNamespace(
        folder=folder,
        sockets=folder,
        set_test=str,
        console=SimpleNamespace(catch_up=lambda: None),
        monitor=SavingQemu({0: REGISTERS}),
    )
    return Worker(vm, iommu=iommu)


def does(worker: Worker, **event: Any) -> None:
    with (worker.vm.folder / "device-trace.jsonl").open("a") as trace:
        trace.write(json.dumps(event) + "\n")


def kinds(seen: Seen) -> set[str]:
    assert seen.host.evidence is not None
    return seen.host.evidence.kinds


def passed() -> Outcome:
    return Outcome([report("setup"), report("call"), report("teardown")], witnessed=False)


def test_each_has_the_trace_of_its_own_device(tmp_path: Path) -> None:
    busy, silent = (made(tmp_path / name) for name in ("1", "2"))
    does(busy, **traces.request(moved=64))
    does(silent, event="reset")  # a device does this in any run
    assert kinds(busy.see(passed())) == {"request"}
    assert kinds(silent.see(passed())) == set()
    assert kinds(busy.see(passed())) == set(), "that was the last test's"
    assert (busy.ran, silent.ran) == (2, 1)


def test_each_has_the_faults_of_its_own_iommu(tmp_path: Path) -> None:
    one, two = (made(tmp_path / name, iommu=True) for name in ("1", "2"))
    with (two.vm.folder / "console.log").open("a") as console:
        console.write(f"{FAULT} PTE Write access is not set\r\n")
    outcome = passed()
    assert not one.see(passed()).host.told
    (told,) = two.see(outcome).host.told
    assert "write by 00:03.0" in told
    assert [name for name, _ in outcome.reports[-1].user_properties] == ["IOMMU faults"]


def test_what_came_between_tests_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dma_rehearsal.host_harness.session.worker.Running", lambda *_: None)
    worker = made(tmp_path / "1")
    named: list[str | None] = []
    monkeypatch.setattr(worker.vm, "set_test", named.append)
    test: Any = SimpleNamespace(nodeid="test_x", config=None)
    does(worker, **traces.request(reason="PROTECTION_OUTSIDE"))
    worker.start(test, None)
    assert named == ["test_x"], "the device's events have its name from now on"
    assert not worker.see(passed()).host.objections
    ((name, words),) = worker.late()
    assert name == "refused DMA"
    assert "while no test ran" in words


@pytest.mark.parametrize("running", [True, False], ids=["in a test", "between tests"])
def test_full_trace_is_held_against_every_later_test(tmp_path: Path, running: bool) -> None:
    worker, other = made(tmp_path / "1"), made(tmp_path / "2")
    does(worker, event="trace is full")
    if not running:
        assert [name for name, _ in worker.late()] == ["device trace"]
    for _ in range(3):
        assert "the device's trace is full" in worker.see(passed()).host.objections[0]
    assert not other.see(passed()).host.objections
    assert not worker.late()


def test_reports_of_the_cache_model_that_no_test_took(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    words = {"kind": "RELEASED_DIRTY", "missing": "SYNC_FOR_DEVICE_AFTER_STORE"}
    words |= {"by": "UNTRACK", "last": "NO_SNOOP_READ", "expected": "01", "seen": "02"}
    fields = ("tag", "other", "offset", "line", "lines", "number", "last_number")
    mistake = {"event": "cache report"} | words | dict.fromkeys(fields, 1)
    does(worker, **mistake)
    assert "RELEASED_DIRTY" in worker.see(passed()).host.objections[0]
    does(worker, **mistake)
    assert [name for name, _ in worker.late()] == ["cache reports"]
    assert worker.late() == []


def test_failed_test_did_not_pass(tmp_path: Path) -> None:
    outcome = Outcome([report("setup"), report("call", "failed"), report("teardown")], False)
    assert not made(tmp_path / "1").see(outcome).passed


def test_refused_dma_while_no_test_runs_is_the_runs(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    assert worker.late() == []
    does(worker, **traces.request(reason="UNMAPPED"))
    ((name, words),) = worker.late()
    assert name == "refused DMA"
    assert words.startswith("while no test ran: exerciser: a write of 64 bytes at 0x1000 was")
    does(worker, **traces.request(2, moved=64))
    assert worker.late() == []


def test_refused_dma_that_was_not_announced_did_not_pass(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    does(worker, **traces.request(reason="UNMAPPED"))
    assert not worker.see(passed()).passed
    assert worker.see(passed()).passed, "the next one has no part in it"


def test_fault_of_an_announced_refusal_may_be_told_late(tmp_path: Path) -> None:
    worker = made(tmp_path / "1", iommu=True)
    outcome = passed()
    expects = {"reasons": ["UNMAPPED"], "first": 0, "last": 1}
    outcome.reports[-1].user_properties.append(("expects", expects))
    does(worker, **traces.request(1, (0x5000, 64), reason="UNMAPPED"))
    assert worker.see(outcome).passed
    for passes in (True, False):
        with (worker.vm.folder / "console.log").open("a") as console:
            address = "0x5000" if passes else "0x6000"
            console.write(f"{FAULT.replace('0x5000', address)} PTE Write access is not set\r\n")
        assert worker.see(passed()).passed == passes


@pytest.mark.parametrize("reason", ["UNMAPPED", "READ_ONLY"])
def test_fault_of_a_refusal_that_the_test_of_a_driver_announced(
    tmp_path: Path, reason: str
) -> None:
    """Behind an IOMMU, DMA to a buffer that was unmapped too early is a fault of the IOMMU's."""
    worker = made(tmp_path / "1", iommu=True)
    with (worker.vm.folder / "console.log").open("a") as console:
        console.write(f"{FAULT} PTE Write access is not set\r\n")
    for event in (
        traces.mark(1),
        traces.request(1, (0x5000, 64), reason="UNMAPPED"),
        traces.mark(2),
    ):
        does(worker, **event)
    outcome = passed()
    said = [driver_traces.run(), driver_traces.expects(f"DmaReason.{reason}")]
    outcome.reports[-1].user_properties += said
    assert worker.see(outcome).passed == (reason == "UNMAPPED")


def test_grants_are_followed_while_no_test_runs(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    does(worker, **traces.protection(enabled=True))
    does(worker, **traces.grant(0x1000, 64))
    assert worker.late() == []
    does(worker, **traces.mark(1))
    found = worker.see(passed()).host.evidence
    assert found is not None
    assert len(found.marks[1].grants) == 1


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [((1, 2, 3), ""), ((1, 3), "2 to 2"), ((2, 3), "1 to 1"), ((1, 5, 6, 9), "2 to 4")],
)
def test_requests_that_the_trace_leaves_out_fail_the_test(
    tmp_path: Path, numbers: tuple[int, ...], missing: str
) -> None:
    worker = made(tmp_path / "1")
    for number in numbers:
        does(worker, **traces.request(number, moved=64))
    found = "\n".join(worker.see(passed()).host.objections)
    assert (f"leaves out its requests {missing}," in found) if missing else not found
    does(worker, **traces.request(numbers[-1] + 1, moved=64))
    assert not worker.see(passed()).host.objections, "only where it happens"


@pytest.mark.parametrize(("count", "missing"), [(2, ""), (1, ""), (4, "3 to 4")])
def test_requests_that_the_guest_counted_and_the_trace_leaves_out(
    tmp_path: Path, count: int, missing: str
) -> None:
    """At the end of a test no further request shows the gap."""
    worker = made(tmp_path / "1")
    for number in (1, 2):
        does(worker, **traces.request(number, moved=64))
    outcome = passed()
    outcome.reports[-1].user_properties.append(("requests", count))
    found = "\n".join(worker.see(outcome).host.objections)
    assert (f"leaves out its requests {missing}," in found) if missing else not found
    does(worker, **traces.request(max(count, 2) + 1, moved=64))
    assert not worker.see(passed()).host.objections, "the next test has nothing of it"


@pytest.mark.parametrize("count", [-1, True, "3", None, 1 << 65])
def test_count_of_requests_that_cannot_be(count: object) -> None:
    with pytest.raises(GuestProtocolError, match="cannot be"):
        host_view.check([("requests", count)])


def test_requests_left_out_between_tests_fail_the_run(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    does(worker, **traces.request(1, moved=64))
    worker.see(passed())
    does(worker, **traces.request(3, moved=64))
    ((name, words),) = worker.late()
    assert name == "device trace"
    assert "requests 2 to 2" in words
    assert not worker.late()


def test_model_that_failed_takes_the_verdict_of_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = made(tmp_path / "1")

    def lost(phase: str, message: str) -> NoVerdict:
        return NoVerdict(phase, message, "look")

    monkeypatch.setattr(worker.vm, "lost", lost, raising=False)
    does(worker, device="device process", test="test_x", event="model failed", text="a bug")
    with pytest.raises(NoVerdict, match="a device's model failed during test_x: a bug"):
        worker.see(passed())
    does(worker, device="device process", test=None, event="model failed", text="a bug")
    with pytest.raises(NoVerdict, match="a device's model failed: a bug"):
        worker.late()


CLAIM = {
    "promise": "kIOMapWriteThruCache",
    "kind": "cache",
    "asked": "WT",
    "buffer": "",
    "made": "",
    "ranges": [],
    "first": 0,
    "va": 0x7000,
    "length": 0x1000,
    "mode": "WT",
}


def claims_a_mode() -> Outcome:
    outcome = passed()
    outcome.reports[-1].user_properties.append(("claim", dict(CLAIM)))
    return outcome


def qemu_of(worker: Worker) -> SavingQemu:
    qemu: Any = worker.vm.monitor
    assert isinstance(qemu, SavingQemu)
    return qemu


def test_claim_of_a_cache_mode_is_judged_by_the_cpus_registers(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    does(worker, **traces.witness((0x7000, 0x0C00_0000, 0x1000, "WT")))
    seen = worker.see(claims_a_mode()).host
    assert [finding.verdict for _, finding in seen.findings] == ["kept"]
    assert (seen.objections, seen.guests_word) == ((), "")


def test_witness_that_was_told_other_registers(tmp_path: Path) -> None:
    """It found what was asked for, and the CPU has another type there."""
    worker = made(tmp_path / "1")
    qemu_of(worker).cpus = {0: replace(REGISTERS, pat=0x0007_0406_0007_0406)}
    does(worker, **traces.witness((0x7000, 0x0C00_0000, 0x1000, "WT")))
    seen = worker.see(claims_a_mode()).host
    assert [finding.verdict for _, finding in seen.findings] == ["broken"]
    assert "the witness found WT at 0x7000 (entry 7 of IA32_PAT" in seen.objections[0]


def test_types_that_the_cache_model_took_are_judged_too(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    right = {**traces.witness((0x7000, 0x0C00_0000, 0x1000, "UC")), "event": "tracked"}
    del right["status"]
    does(worker, **right)
    seen = worker.see(passed()).host
    assert seen.objections == ()
    assert seen.evidence
    assert (seen.evidence.kinds, seen.evidence.walks) == (set(), []), "no evidence of a test's own"
    right["runs"][0]["effective"] = "WB"
    does(worker, **right)
    (said,) = worker.see(passed()).host.objections
    assert "the witness found WB at 0x7000 (entry 3 of IA32_PAT" in said


def test_objections_to_walks_are_bounded(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    wrong = traces.witness((0x7000, 0x0C00_0000, 0x1000, "UC"))
    wrong["runs"][0]["effective"] = "WB"
    for _ in range(50):
        does(worker, **wrong)
    assert len(worker.see(passed()).host.objections) == 20


def test_registers_are_read_for_the_first_walk_and_at_the_end(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    worker.see(passed())
    assert worker.confirm() == []
    assert qemu_of(worker).commands == [], "no test walked"
    for _ in range(3):
        does(worker, **traces.witness((0x7000, 0x0C00_0000, 0x1000, "WB")))
        assert not worker.see(passed()).host.objections
    assert qemu_of(worker).commands.count("migrate") == 1
    assert worker.confirm() == []
    qemu_of(worker).cpus = {0: replace(REGISTERS, def_type=0)}
    ((name, words),) = worker.confirm()
    assert name == "PAT and MTRRs"
    assert "IA32_MTRR_DEF_TYPE of CPU 0 was 0xc06, and is 0x0 now" in words


def test_guests_word_is_labelled_where_qemu_does_not_save(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    qemu_of(worker).refuses = "migrate"
    does(worker, **traces.witness((0x7000, 0x0C00_0000, 0x1000, "WT")))
    seen = worker.see(claims_a_mode()).host
    assert [finding.verdict for _, finding in seen.findings] == ["kept"]
    assert (seen.objections, seen.guests_word) == ((), "PAT and MTRRs by the guest's word")
    (note,) = worker.notes()
    assert "the guest's word in this run" in note
    assert "migrate: refused" in note
    assert worker.confirm() == []


def test_objection_of_the_hosts_walk(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    outcome = replace(passed(), objections=["the guest told IA32_PAT as 0x1"])
    assert worker.see(outcome).host.objections == ("the guest told IA32_PAT as 0x1",)


def test_monitor_that_does_not_answer_loses_the_run(tmp_path: Path) -> None:
    worker = made(tmp_path / "1")
    qemu_of(worker).refuses = "stop"
    lost: Any = worker.vm
    lost.lost = NoVerdict
    does(worker, **traces.witness((0x7000, 0x0C00_0000, 0x1000, "WT")))
    with pytest.raises(NoVerdict, match="about the CPUs: stop: refused"):
        worker.see(passed())
