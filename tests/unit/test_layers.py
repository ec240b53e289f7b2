# SPDX-License-Identifier: Apache-2.0
"""Each contract of pyproject.toml fires: an import that it forbids breaks it."""

from __future__ import annotations

import copy
import graphlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract
from importlinter.domain.contract import Contract

from dma_rehearsal.host_harness.environment.payload import SOURCE

TYPES: dict[str, type[Contract]] = {
    "acyclic_siblings": AcyclicSiblingsContract,
    "forbidden": ForbiddenContract,
    "independence": IndependenceContract,
    "layers": LayersContract,
}
CONFIGURATION = read_configuration(str(SOURCE / "pyproject.toml"))
CONTRACTS = {each["id"]: each for each in CONFIGURATION["contracts_options"]}

# Imports that the contracts forbid: contract, importer, imported.
FORBIDDEN = [
    ("apart-device", "device.trace", "host_harness.process.errors"),
    ("apart-guest", "guest.drivers.edu", "device.endpoints.registers"),
    ("apart-host", "host_harness.machine.vm", "guest.linux.swap"),
    ("guest-layers", "guest.drivers.edu", "guest.testkit.patterns"),
    ("allocator-layers", "guest.iobuffer.base.coherence", "guest.iobuffer.memory.platform"),
    ("agent-alone", "guest.agent.pytest_session", "guest.testkit.plugin"),
    ("suite-apart", "guest.suite.test_parts", "guest.suite.test_ring"),
    ("device-layers", "device.endpoints.bars", "device.exerciser.exerciser"),
    ("vfio-user-alone", "device.vfio_user.server", "device.trace"),
    ("page-walk-alone", "host_harness.witness.page_walk", "host_harness.process.errors"),
    ("witness-device", "device.platform.witness", "host_harness.witness.page_walk"),
    ("host-witness", "host_harness.witness.host_witness", "device.layout.witness"),
    ("host-layers", "host_harness.environment.qemu", "host_harness.machine.vm"),
    (
        "no-circles",
        "guest.iobuffer.descriptors.memory_map",
        "guest.iobuffer.descriptors.memory_descriptor",
    ),
    ("no-circles", "device.pci.config", "device.pci.pcie"),
    ("no-circles", "host_harness.machine.vm", "host_harness.machine.launch"),
    ("no-circles", "device.pci.config", "device.endpoints.bars"),
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("dma_rehearsal", cache_dir=None)


def kept(graph: grimp.ImportGraph, options: dict[str, Any]) -> bool:
    contract = TYPES[options["type"]](options["name"], CONFIGURATION["session_options"], options)
    # A check takes the ignored imports out of its graph.
    return contract.check(copy.deepcopy(graph), verbose=False).kept


def test_each_contract_has_an_example() -> None:
    assert CONTRACTS.keys() == {identity for identity, _, _ in FORBIDDEN}


@pytest.mark.parametrize(("identity", "importer", "imported"), FORBIDDEN)
def test_forbidden_import_breaks_the_contract(
    graph: grimp.ImportGraph, identity: str, importer: str, imported: str
) -> None:
    importer, imported = f"dma_rehearsal.{importer}", f"dma_rehearsal.{imported}"
    assert {importer, imported} <= graph.modules
    changed = copy.deepcopy(graph)
    assert kept(changed, CONTRACTS[identity])
    changed.add_import(importer=importer, imported=imported)
    assert not kept(changed, CONTRACTS[identity])


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Return the modules of a circle, none where there is none. A package is a module as well."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    """The contract leaves out circles of a package with its own modules."""
    assert circle(graph) == []
    changed = copy.deepcopy(graph)
    package = "dma_rehearsal.device.layout"
    changed.add_import(importer=f"{package}.exerciser", imported=package)
    assert set(circle(changed)) == {f"{package}.exerciser", package}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what the linter reads."""
    for name in ("device", "guest", "host_harness"):
        shutil.copytree(SOURCE / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(SOURCE / "dma_rehearsal", tmp_path / "dma_rehearsal", symlinks=True)
    shutil.copy(SOURCE / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_linter_reads_the_files_behind_the_links(sources: Path) -> None:
    """A type-only import counts as well."""
    assert lint(sources).returncode == 0
    with (sources / "host_harness" / "machine" / "vm.py").open("a") as file:
        file.write(
            "\nfrom typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n"
            "    from dma_rehearsal.guest.linux import swap\n"
        )
    done = lint(sources)
    assert done.returncode == 1
    assert "dma_rehearsal.host_harness.machine.vm -> dma_rehearsal.guest.linux.swap" in (
        " ".join(done.stdout.split())
    )
