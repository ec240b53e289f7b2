# SPDX-License-Identifier: Apache-2.0
"""For a fault of each group, the page of the red run tells the cause without the code."""

from __future__ import annotations

import html
import re
from functools import partial
from pathlib import Path

import pytest

from dma_rehearsal.device.faults import IMPLEMENTATIONS
from dma_rehearsal.guest.faults import registry
from dma_rehearsal.host_harness.run_page import page
from tests.inprocess.patched import patched
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.wrong import hasten

pytest_plugins = ["pytester"]

# By fault: the tests that are run, and what an engineer must find in the story of a failure.
DEVICE = {
    "protection-end-off-by-one": (
        "test_protection and outside_every",
        ("1 bytes at 0x", "due: INTERNAL, PROTECTION_OUTSIDE", "NO GRANT IN FORCE PERMITS THIS"),
    ),
    "device-ignores-direction": (
        "test_direction and test_in",
        ("REFUSED: PROTECTION_DIRECTION", "nearest grant: IN", "next: the device reads memory"),
    ),
    "boundary-crossed": (
        "test_constraints and BOUNDARY",
        ("limit BOUNDARY, value 4096", "reads memory: 2 bytes at 0x", "0 were"),
    ),
    "msix-dropped": (
        "msix_reaches",
        ("vector 10 of 16, once", "0 on it", "interrupt: msi-x vector 0"),
    ),
    "witness-ignores-pat": (
        "WriteThru and witnessed",
        ("WT on 1 bytes", "UC (PAT 3 = UC", "are UC (PAT entry 3)"),
    ),
    "cache-clean-noop": (
        "test_cache_calls and operations",
        (
            "device: 256 of 256 bytes differ",
            "REPORT WRITE_TO_DIRTY_LINE",
            "The cache line at fault",
        ),
    ),
    "held-outlives-bus-master": (
        "test_held and what_ends_it",
        ("bus mastering is off", "DMA in flight"),
    ),
}
ALLOCATOR = {
    "allocator-grants-outlive": (
        "test_dma_after_release_is_denied",
        ("were granted when it was released", "what is granted here counts", "4096 bytes at 0x"),
    ),
    "allocator-misaligned": ("test_alignment", ("alignment is broken: asked 2; attested 0x",)),
    "allocator-mask-ignored": (
        "test_device_reads",
        ("REFUSED: ADDRESS_BITS", "the device does not drive as many address bits"),
    ),
}


@pytest.fixture
def rig(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> SuiteRunner:
    hasten(monkeypatch)
    return SuiteRunner(pytester, monkeypatch)


def story(rig: SuiteRunner, kind: type[Machine], selected: str, folder: Path) -> str:
    """Return what the page of a run says about its failures, as text, its pictures included."""
    outcome = rig.run(kind, "-k", selected)
    outcome.write(folder)
    made = page.make(folder).partition('<h2 id="table">')[0].partition("<main>")[2]
    return html.unescape(re.sub(r"<[^>]*>", "", made))


@pytest.mark.parametrize("name", DEVICE)
def test_the_cause_of_a_devices_fault(rig: SuiteRunner, tmp_path: Path, name: str) -> None:
    selected, words = DEVICE[name]
    kind = type(name, (Machine,), {"fault": IMPLEMENTATIONS[name]})
    said = story(rig, kind, selected, tmp_path)
    assert [each for each in words if each not in said] == []


@pytest.mark.parametrize("name", ALLOCATOR)
def test_the_cause_of_an_allocators_fault(rig: SuiteRunner, tmp_path: Path, name: str) -> None:
    selected, words = ALLOCATOR[name]
    with patched("dma_rehearsal.guest", partial(registry.patch, name)):
        said = story(rig, Machine, selected, tmp_path)
    assert [each for each in words if each not in said] == []


def test_a_sound_run_has_no_story(rig: SuiteRunner, tmp_path: Path) -> None:
    assert "What failed" not in story(rig, Machine, "test_constraints", tmp_path)
