# SPDX-License-Identifier: Apache-2.0
"""The list of proofs: it finds what each test proves, and says what nobody does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dma_rehearsal.device.layout import DmaReason
from tests.proofs import ROOT, Proof, Proofs, Subject, named, proofs_of, reports_in

FAULT = Subject("fault", "device-read-flip")
SOUND = "tests/test_a.py::test_sound"


def gathered(*proofs: Proof) -> Proofs:
    made = Proofs([FAULT], {SOUND})
    for proof in proofs:
        made.add(FAULT, proof)
    return made


def test_subject_without_a_proof_is_missing() -> None:
    (said,) = gathered().missing()
    assert said == "fault 'device-read-flip': no test makes it fire"


def test_proof_without_its_neighbour_is_missing() -> None:
    (said,) = gathered(Proof("tests/test_a.py::test_fault", "tests/test_a.py::gone")).missing()
    assert said == "fault 'device-read-flip': the neighbour is missing: tests/test_a.py::gone"


def test_proof_with_its_neighbour_is_enough() -> None:
    proofs = gathered(
        Proof("tests/test_a.py::test_fault[a]", f"{SOUND}[b]"),
        Proof("tests/test_a.py::test_fault[c]", f"{SOUND}[b]"),
    )
    assert [*proofs.missing()] == []
    assert [*proofs.lines()] == [
        "fault: device-read-flip",
        f"    tests/test_a.py::test_fault (x2); stays green: {SOUND}[b]",
    ]


@pytest.mark.parametrize("fault", ["device-read-flip", None])
def test_parameter_names_a_fault_and_its_promises(
    request: pytest.FixtureRequest, fault: str | None
) -> None:
    due = [FAULT, Subject("promise", "kIODirectionOut")] if fault else []
    assert [*named(request.node, "fault")] == due


@pytest.mark.parametrize("promises", [{"release"}])
def test_parameter_names_promises(
    request: pytest.FixtureRequest,
    promises: set[str],  # noqa: ARG001
) -> None:
    assert [*named(request.node, "promises")] == [Subject("promise", "release")]


@pytest.mark.parametrize("number", [1])
def test_parameter_that_names_nothing_is_an_error(
    request: pytest.FixtureRequest,
    number: int,  # noqa: ARG001
) -> None:
    with pytest.raises(ValueError, match="1 names neither"):
        [*named(request.node, "number")]


def test_neighbour_is_the_test_itself_or_another(request: pytest.FixtureRequest) -> None:
    node = request.node
    path, _, _ = node.nodeid.partition("::")
    node.add_marker(pytest.mark.fires("release"))
    node.add_marker(pytest.mark.fires("release", neighbour="test_other"))
    node.add_marker(pytest.mark.fires("release", neighbour=SOUND))
    neighbours = {proof.neighbour for _, proof in proofs_of(node)}
    assert neighbours == {node.nodeid, f"{path}::test_other", SOUND}


def test_promises_that_a_test_does_not_show_are_left_out(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.fires("device-read-flip", without={"kIODirectionOut"}))
    assert [subject for subject, _ in proofs_of(request.node)] == [FAULT]


def test_reports_by_name_by_alias_and_by_constant() -> None:
    source = """
from dma_rehearsal.device.layout import DmaReason as Why, Other
BOTH = Why.UNMAPPED, Other.RESET
@mark(Why.PRP)
def test_a(): assert Why.BOUNDARY and Other.ALIGNMENT
def test_b(): assert BOTH
def helper(): return Why.INJECTED
"""
    assert reports_in(source, DmaReason) == {
        "test_a": {"PRP", "BOUNDARY"},
        "test_b": {"UNMAPPED"},
    }


def test_everything_is_proved() -> None:
    """Each fault, promise and report fires in `make test`, and has a green neighbour there."""
    environment = {**os.environ}
    environment.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD", None)  # marks of xdist are used
    done = subprocess.run(
        [sys.executable, "-m", "tests.proofs", "-q", "-m", "not full"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
