# SPDX-License-Identifier: Apache-2.0
"""The IOMMU's faults: found on the console, matched with what a test expects, told in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness import faults
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.verdict import dmar
from dma_rehearsal.host_harness.verdict.dmar import (
    DmarFault,
    DmarLog,
    ExpectedFault,
    FaultComparison,
)
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.host_view import HostView
from dma_rehearsal.host_harness.verdict.ledger import HOST_SAW, Ledger
from tests.unit.host_harness import traces

WRITE = (
    b"[   30.743594] DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x111000 "
    b"[fault reason 0x05] PTE Write access is not set\r\n"
)
READ = (
    b"[   30.974940] DMAR: [DMA Read NO_PASID] Request device [00:03.0] fault addr 0x110000 "
    b"[fault reason 0x06] PTE Read access is not set\r\n"
)
WRITE_FAULT = DmarFault("00:03.0", 0x111000, True, 5, "PTE Write access is not set")
READ_FAULT = DmarFault("00:03.0", 0x110000, False, 6, "PTE Read access is not set")
WANTED = ExpectedFault("00:03.0", 0x111008, True)


@pytest.fixture
def console(tmp_path: Path) -> Path:
    path = tmp_path / "console.log"
    path.write_bytes(b"init: up\r\n" + WRITE)
    return path


def test_newer_kernels_name_the_segment(console: Path) -> None:
    log = DmarLog(console)
    with console.open("ab") as file:
        file.write(READ.replace(b"[00:03.0]", b"[0000:00:03.0]"))
        file.write(READ.replace(b"[00:03.0]", b"[0001:00:03.0]"))
    assert log.take() == [WRITE_FAULT, READ_FAULT]


def test_faults_are_taken_once_and_whole_lines_only(console: Path) -> None:
    log = DmarLog(console)
    assert log.take() == [WRITE_FAULT]
    assert log.take() == []
    with console.open("ab") as file:
        file.write(READ[:60])
    assert log.take() == []
    with console.open("ab") as file:
        file.write(READ[60:])
    assert log.take() == [READ_FAULT]
    assert str(READ_FAULT) == (
        "DMAR fault: read by 00:03.0 at 0x110000, reason 6: PTE Read access is not set"
    )


@pytest.mark.parametrize(
    "line",
    [
        WRITE.replace(b"DMAR", b"DMAC"),
        WRITE.replace(b"00:03.0", b"00:03.9"),
        WRITE.replace(b"0x111000", b"0x" + b"1" * 17),
        WRITE.replace(b"PTE Write", b"PTE \x1b[2J"),
    ],
)
def test_what_is_no_fault_of_the_kernel_is_none(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "log").write_bytes(line)
    assert DmarLog(tmp_path / "log").take() == []


def test_no_console_yet_has_no_faults(tmp_path: Path) -> None:
    assert DmarLog(tmp_path / "absent").take() == []


def test_what_the_console_has_not_written_yet_is_waited_for(console: Path) -> None:
    """A fault that comes a moment too late would be the next test's."""
    said = console.read_bytes()
    console.write_bytes(b"")

    def catch_up() -> None:
        console.write_bytes(said)

    assert DmarLog(console, catch_up).take()


@pytest.mark.parametrize(
    ("wanted", "told", "missing", "unexpected"),
    [
        ([WANTED], [WRITE_FAULT], (), ()),
        ([WANTED], [], (WANTED,), ()),
        ([], [WRITE_FAULT], (), (WRITE_FAULT,)),
        ([WANTED], [READ_FAULT], (WANTED,), (READ_FAULT,)),
        ([WANTED, WANTED], [WRITE_FAULT], (WANTED,), ()),
        ([ExpectedFault("00:04.0", 0x111008, True)], [WRITE_FAULT], 1, 1),
        ([ExpectedFault("00:03.0", 0x112000, True)], [WRITE_FAULT], 1, 1),
    ],
)
def test_each_fault_that_is_wanted_needs_one_of_its_own(
    wanted: list[ExpectedFault], told: list[DmarFault], missing: Any, unexpected: Any
) -> None:
    outcome = dmar.compare(wanted, told)
    if isinstance(missing, int):
        assert (len(outcome.missing), len(outcome.unexpected)) == (missing, unexpected)
    else:
        assert (outcome.missing, outcome.unexpected) == (missing, unexpected)
    assert bool(outcome.complaint) == bool(outcome.missing or outcome.unexpected)


def test_a_fault_that_is_wanted_is_waited_for(
    console: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DmarLog(console)
    log.take()

    def sleep(_seconds: float) -> None:
        with console.open("ab") as file:
            file.write(WRITE)

    monkeypatch.setattr("time.sleep", sleep)
    assert log.await_all([WANTED]).missing == ()
    monkeypatch.setattr(dmar, "PATIENCE_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert log.await_all([WANTED]).missing == (WANTED,)


def test_what_a_report_expects_is_checked() -> None:
    value = {"source": "00:03.0", "address": 0x111008, "write": True}
    assert dmar.expected([("promise", {}), ("iommu fault", value)]) == [WANTED]
    for wrong in (
        None,
        {**value, "source": "here"},
        {**value, "address": -1},
        {**value, "address": True},
        {**value, "address": 1 << 64},
        {**value, "write": 1},
    ):
        with pytest.raises(GuestProtocolError, match="expects a fault that cannot be"):
            dmar.expected([("iommu fault", wrong)])
    with pytest.raises(GuestProtocolError, match="65 faults"):
        dmar.expected([("iommu fault", value)] * 65)


def row(verdict: str = "kept") -> dict[str, str]:
    words = {"promise": "IOMMU denial", "asked": "a", "attested": "refused", "reason": ""}
    return {**words, "verdict": verdict}


def report(*properties: Any) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="suite/test_iommu.py::test",
        location=("suite/test_iommu.py", 1, "test"),
        keywords={},
        outcome="passed",
        longrepr=None,
        when="call",
        user_properties=[("promise", each) for each in properties],
    )


def added(outcome: FaultComparison, *properties: Any) -> Ledger:
    ledger = Ledger()
    told = tuple(str(each) for each in outcome.told)
    objections = (outcome.complaint,) if outcome.complaint else ()
    ledger.add_test([report(*properties)], [], HostView(objections=objections, told=told))
    return ledger


def test_a_denial_is_kept_when_the_kernel_told_it_and_has_the_record_attached() -> None:
    (kept,) = added(dmar.compare([WANTED], [WRITE_FAULT]), row()).promises
    assert kept.verdict == "kept"
    assert kept.attested == f"refused; {WRITE_FAULT}"


@pytest.mark.parametrize("told", [[], [READ_FAULT]])
def test_a_denial_that_the_kernel_did_not_tell_is_broken(told: list[DmarFault]) -> None:
    ledger = added(dmar.compare([WANTED], told), row())
    (broken,) = ledger.promises
    assert broken.verdict == "broken"
    assert "printed no DMAR fault: write by 00:03.0 at 0x111008" in broken.reason
    assert ledger.objections() == [broken]
    assert ledger.failed == 1


def test_a_fault_that_nobody_expected_breaks_a_test_without_promises() -> None:
    (broken,) = added(dmar.compare([], [WRITE_FAULT])).promises
    assert (broken.promise, broken.verdict) == (HOST_SAW, "broken")


def test_option_and_faults_that_need_it() -> None:
    assert not run_options.parse({}).iommu
    assert run_options.parse({"iommu": "intel"}).iommu
    with pytest.raises(UsageError, match="IOMMU=amd"):
        run_options.parse({"iommu": "amd"})
    needing = [each for each in faults.FAULTS if each.options]
    assert {each.name for each in needing if "iommu" in each.options}
    for each in needing:
        parsed = run_options.parse({"fault": each.name})
        assert parsed.iommu == ("iommu" in each.options)
        assert parsed.given.items() >= each.options.items(), "the replay command names them"


@pytest.mark.parametrize(
    ("start", "length", "write", "expected"),
    [
        (0x111008, 64, True, True),
        (0x110FF0, 64, True, True),  # the fault is on its second page
        (0x111008, 64, False, False),
        (0x112000, 64, True, False),
        (0x110F00, 0x100, True, False),
    ],
)
def test_fault_of_a_refusal_that_was_announced_is_expected(
    start: int, length: int, write: bool, expected: bool
) -> None:
    (refused,) = Evidence.of(
        [traces.request(1, (start, length), write=write, reason="UNMAPPED")]
    ).refusals
    outcome = dmar.compare([], [WRITE_FAULT], [refused])
    assert (outcome.complaint == "") == expected
    assert outcome.told == (WRITE_FAULT,)
