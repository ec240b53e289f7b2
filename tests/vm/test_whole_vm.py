# SPDX-License-Identifier: Apache-2.0
"""Whole-VM runs of the command: a clean one, and one for every named fault."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.faults import FAULTS, Component, Fault
from dma_rehearsal.device.layout.run_status import Status
from tests.comparison import BOOTED, COLD, records, run_each_start, save_booted, unlike
from tests.runs import LIMIT_S, OF_A_VM, Run, check, clean_environment, last_line, run

# In each `make test`: a fault that ends the device, one of the channel, those behind an IOMMU
# that need a VM of their own. The others are noticed in process, or in test_faults_in_one_vm.py.
_GATE = ("device-hangs", "report-corrupted", "iommu-record-lost", "iommu-mask-ignored")

OF_A_RUN = {
    *(
        "status",
        "junit.xml",
        "seed",
        "attestations.json",
        "verdicts.json",
        "replay",
        "environment.json",
        "report.html",
    ),
}
WITNESSED = "host-witness.jsonl"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The clean run of `make test` that always boots cold.

    Guests from one saved state share the BARs that the firmware placed, the offset of the kernel's
    address space layout and Python's hash seed; so each `make test` has new ones here.
    """
    return run(tmp_path_factory.mktemp("runs"), SEED="0x5eed", STATE="no")


def test_clean_run_passes_with_every_promise_kept(clean: Run) -> None:
    check(clean, 0)
    assert last_line(clean.output) == (0, "booted cold")
    promises = clean.attestations["promises"]
    verdicts = {row["verdict"] for row in promises}
    assert "kept" in verdicts
    assert "broken" not in verdicts
    kept = {row["promise"] for row in promises if row["verdict"] == "kept"}
    assert kept >= {
        *("kIODirectionIn", "kIODirectionOut", "kIODirectionInOut", "inTask", "release"),
        *("kIOMapInhibitCache", "kIOMapWriteThruCache", "kIOMapCopybackCache"),
        *("kIOMapWriteCombineCache", "kIOMemoryPhysicallyContiguous", "capacity", "alignment"),
        *("MSI-X", "INTx"),
    }


def test_clean_run_has_the_host_look_at_a_buffer_of_each_mode(clean: Run) -> None:
    agreed = {
        row["facts"]["mode"]
        for row in clean.attestations["promises"]
        if "host" in row["facts"].get("agreed", "") and row["verdict"] == "kept"
    }
    assert agreed == {
        *("kIOMapDefaultCache", "kIOMapInhibitCache", "kIOMapWriteThruCache"),
        *("kIOMapCopybackCache", "kIOMapWriteCombineCache"),
    }
    assert "agreed by" in clean.output


def test_clean_run_leaves_every_artefact(clean: Run) -> None:
    facts = clean.attestations
    others = {f"vm{number}" for number in range(2, facts["vms"] + 1)}
    folders = [clean.folder, *(clean.folder / name for name in others)]
    first, *found = ({path.name for path in folder.iterdir()} for folder in folders)
    assert first - {WITNESSED} == OF_A_RUN | OF_A_VM | others
    assert all(each - {WITNESSED} == OF_A_VM for each in found)
    assert any(WITNESSED in each for each in (first, *found))
    assert (clean.folder / "status").read_text() == "0\n"
    assert (clean.folder / "seed").read_text() == f"{0x5EED}\n"
    environment = json.loads((clean.folder / "environment.json").read_text())
    assert environment["options"] == {"seed": "0x5eed", "state": "no"}
    assert environment["qemu"]["version"]
    assert environment["guest"]["kernel"].startswith("6.1.")
    assert facts["accelerator"] in ("kvm", "tcg")
    assert facts["seed"] == 0x5EED
    assert {"environment", "device", "qemu", "boot", "collection", "tests"} <= set(facts["phases"])
    suite = ElementTree.parse(clean.folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("tests", 0)) == facts["passed"] > 0
    traces = [(each / "device-trace.jsonl").read_text().splitlines() for each in folders]
    assert all(isinstance(json.loads(line), dict) for trace in traces for line in trace)
    assert sum(map(len, traces)) > facts["passed"]


def test_clean_run_counts_and_shows_the_table(clean: Run) -> None:
    facts = clean.attestations
    assert f"{facts['passed']} passed, 0 failed" in clean.output
    assert "kIOMapWriteCombineCache" in clean.output
    assert "unattested" not in clean.output


def test_clean_run_in_a_log_has_plain_lines_phase_by_phase_and_test_by_test(clean: Run) -> None:
    assert "\x1b" not in clean.output + clean.errors
    assert "\r" not in clean.output + clean.errors
    for phase in ("environment", "device", "qemu", "boot"):
        assert re.search(rf"^\[ +\d+\.\ds\] {phase}: \d+\.\d s$", clean.errors, re.MULTILINE)
    lines = re.findall(r"^guest/suite/test_.+ PASSED ", clean.output, re.MULTILINE)
    assert len(lines) == clean.attestations["passed"]
    assert clean.output.splitlines()[-2].startswith("replay: ")


def test_run_behind_an_iommu(tmp_path: Path) -> None:
    """Each denial has the fault that the guest's kernel printed for it: reason, source, address."""
    done = run(tmp_path, IOMMU="intel", VMS="1")  # other VMs run beside it
    assert done.status == 0
    promises = done.attestations["promises"]
    assert {row["promise"] for row in promises if row["verdict"] == "kept"} >= {
        *("IOMMU mapping", "IOMMU contiguity", "IOMMU direction", "IOMMU denial", "IOMMU limits"),
        *("FLR", "MSI-X", "INTx", "mapper", "cache maintenance", "kIOMemoryPhysicallyContiguous"),
        *("kIOMemoryHostPhysicallyContiguous", "kIOMemoryMapperNone"),
    }
    denials = [
        row["attested"]
        for row in promises
        if row["promise"] in ("IOMMU denial", "mapper denial")
        or row["attested"].startswith("carry lost")
    ]
    assert len(denials) == 5 + 7 + 1
    told = [
        re.findall(r"DMAR fault: (read|write) by ([\d:.]+) at 0x[\da-f]+, reason (\d)", each)
        for each in denials
    ]
    assert all(told)
    assert {each for several in told for each in several} == {
        ("write", "00:03.0", "5"),
        ("read", "00:03.0", "6"),
    }
    assert (done.folder / "junit.xml").read_text().count('name="IOMMU faults"') == len(denials)
    assert "IOMMU=intel" in done.output.splitlines()[-2], "the replay command"


def _of_its_own(fault: Fault) -> bool:
    """Whether no VM of test_faults_in_one_vm.py can have the fault; and one of each kind."""
    if fault.component is Component.REHEARSAL:
        return False  # test_driver_fixture.py has them
    return (
        not (fault.switchable or fault.of_a_session)
        or fault.options not in ({}, {"iommu": "intel"})
        or fault.name in ("cache-clean-noop", "driver-wrong-entry", "allocator-misaligned")
    )


@pytest.mark.fires("fault", neighbour="test_clean_run_counts_and_shows_the_table")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, marks=() if each.name in _GATE else pytest.mark.full, id=each.name)
        for each in FAULTS
        if _of_its_own(each)
    ],
)
def test_fault_turns_the_run_red(fault: Fault, tmp_path: Path) -> None:
    tests = (f"suite/{each}" for each in fault.tests)
    # By some seeds the random operations do not come to what a fault breaks.
    done = run(tmp_path, *tests, FAULT=fault.name, SEED="2")
    assert done.status == fault.status
    assert (done.folder / "status").read_text() == f"{fault.status.value}\n"
    rows = done.attestations["promises"]
    told = {row["promise"] for row in rows if row["verdict"] == fault.verdict}
    assert told >= set(fault.promises)
    for promise in fault.promises:
        assert f"{fault.verdict}: {promise}" in done.output
    assert fault.message in done.output
    assert ("no verdict: " in done.output) == (fault.status is Status.NO_VERDICT)
    if fault.parameter:
        assert done.start == COLD, "a restored kernel has its command line from before"


@pytest.mark.full
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, id=each.name)
        for each in FAULTS
        if _of_its_own(each) and not each.parameter
    ],
)
def test_fault_is_told_alike_by_a_restored_run_and_a_cold_one(fault: Fault, tmp_path: Path) -> None:
    number = itertools.count(1)

    def start(state: str) -> Run:
        tests = [f"suite/{each}" for each in fault.tests]
        settings = {"FAULT": fault.name, "SEED": "0x5eed", "STATE": state}
        return run(tmp_path / f"{next(number)}", *tests, **settings)

    def save() -> Run:
        return save_booted(tmp_path / "save", fault.options.get("iommu", ""))

    assert unlike(records(run_each_start(start, (COLD, BOOTED), save))) == ""


def test_failed_run_can_be_replayed_from_its_folder(tmp_path: Path) -> None:
    """The same test, seed and fault; and the guest's kernel log is there."""
    done = run(tmp_path / "runs", "-k", "test_in and (64 or 65)", FAULT="device-write-flip")
    assert done.status == 1
    assert "Linux version 6.1." in (done.folder / "dmesg.log").read_text()
    first = done.folder.resolve()
    replay = (first / "replay").read_text()
    assert done.output.splitlines()[-2] == f"replay: {replay.rstrip()}"
    again = subprocess.run(
        ["sh", "-c", replay],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert again.returncode == 1
    second = done.folder.resolve()
    assert second != first
    rows = [json.loads((each / "attestations.json").read_text()) for each in (first, second)]
    assert rows[0]["promises"] == rows[1]["promises"], "the same bytes, at the same places"
    assert rows[0]["seed"] == rows[1]["seed"]


@pytest.mark.full
def test_selection_works_as_in_pytest(tmp_path: Path) -> None:
    done = run(tmp_path, "-q", "-k", "test_bus_master")
    assert done.status == 0
    assert 0 < done.attestations["passed"] < 10
    assert "PASSED" not in done.output
    assert done.errors == "", "-q shows no phases"


@pytest.mark.full
def test_nothing_selected_is_a_usage_error(tmp_path: Path) -> None:
    assert run(tmp_path, "-k", "no_such_test").status == 2


@pytest.mark.full
def test_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, "suite/test_nothing.py")
    assert done.status == 2
    assert "suite/test_nothing.py" in done.output + done.errors


def test_unknown_fault_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, FAULT="no-such-fault")
    assert done.status == 2
    assert "make faults" in done.errors


def test_lost_vm_is_no_verdict(tmp_path: Path) -> None:
    """A module parameter that the driver refuses ends init: a panic, named with the console."""
    done = run(tmp_path, APPEND="dma_rehearsal.carveouts=nonsense")
    assert done.status == 4
    assert last_line(done.output) == (4, "booted cold")
    assert "gave up" in done.output
    assert (done.folder / "status").read_text() == "4\n"
