# SPDX-License-Identifier: Apache-2.0
"""The table of faults: each is implemented once, and the documentation shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dma_rehearsal.device import faults as device_faults
from dma_rehearsal.device.layout.faults import BY_NAME, FAULTS, Component
from dma_rehearsal.guest.faults import registry
from dma_rehearsal.host_harness import faults
from dma_rehearsal.host_harness.process.errors import Status, UsageError

ROOT = Path(__file__).resolve().parents[3]


def test_every_name_is_there_once() -> None:
    assert len(BY_NAME) == len(FAULTS)


def test_every_fault_has_a_red_status_and_something_to_look_for() -> None:
    for fault in FAULTS:
        assert fault.status in (Status.FAILED, Status.NO_VERDICT)
        if fault.component is Component.REHEARSAL:  # its tests are not of the guest's suite
            assert fault.message
            continue
        assert fault.tests
        assert fault.promises if fault.status is Status.FAILED else fault.message


def test_tests_of_a_fault_are_files_of_the_guests_suite() -> None:
    for fault in FAULTS:
        for name in fault.tests:
            assert (ROOT / "guest" / "suite" / name).is_file(), fault.name


def test_device_process_implements_its_faults_and_no_others() -> None:
    due = {each.name for each in FAULTS if each.component.in_device}
    assert set(device_faults.IMPLEMENTATIONS) == due


def test_guest_implements_its_faults_and_no_others() -> None:
    due = {each.name for each in FAULTS if each.component.in_guest}
    assert set(registry.IMPLEMENTATIONS) == due
    assert len(registry.IMPLEMENTATIONS) == len(due)


def test_kernel_module_implements_its_faults_and_no_others() -> None:
    source = (ROOT / "guest" / "driver" / "dma_rehearsal_fault.c").read_text()
    (table,) = re.findall(r"dr_faults\[\] = \{(.*?)\n\};", source, re.DOTALL)
    known = {f"dma_rehearsal.fault={name}" for name in re.findall(r'\{ "(\w+)"', table)}
    assert known == {each.parameter for each in FAULTS if each.component is Component.DRIVER}


def test_list_has_a_line_for_each_fault() -> None:
    lines = faults.listing().splitlines()
    assert [line.split()[:2] for line in lines] == [
        [fault.name, str(fault.status.value)] for fault in FAULTS
    ]
    assert all(line.endswith(BY_NAME[line.split()[0]].description) for line in lines)


def test_documentation_has_the_table() -> None:
    """Made by ``python -m dma_rehearsal.host_harness faults --markdown``."""
    assert f"\n{faults.markdown()}\n" in (ROOT / "docs" / "faults.md").read_text()


def test_unknown_fault_names_similar_ones() -> None:
    assert faults.find("device-read-flip") is BY_NAME["device-read-flip"]
    with pytest.raises(UsageError, match="device-read-flip"):
        faults.find("device-read-flop")


def test_unknown_fault_that_is_like_no_other_names_them_all() -> None:
    with pytest.raises(UsageError) as error:
        faults.find("0")
    assert str(error.value).splitlines()[2:] == [f"    {fault.name}" for fault in FAULTS]
