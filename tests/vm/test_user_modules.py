# SPDX-License-Identifier: Apache-2.0
"""Kernel modules under test reach the guest; their mistakes are named by function and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs import check, run_in
from tests.vm.project import pytest_in

DRIVER = """\
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/pci.h>
#include "../common/size.h"

static inline dma_addr_t my_map(struct device *dev, void *buffer)
{
	return dma_map_single(dev, buffer, SIZE, DMA_TO_DEVICE);
}

struct my_buffer {
	dma_addr_t bus;
	char bytes[SIZE];
};

static int my_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct my_buffer *my = devm_kzalloc(&pdev->dev, sizeof(*my), GFP_KERNEL);

	if (!my || dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64)))
		return -ENOMEM;
	pci_set_drvdata(pdev, my);
	my->bus = my_map(&pdev->dev, my->bytes);
	return dma_mapping_error(&pdev->dev, my->bus);
}

static void my_remove(struct pci_dev *pdev)
{
	struct my_buffer *my = pci_get_drvdata(pdev);

	REMOVE
}

static const struct pci_device_id my_ids[] = { { PCI_DEVICE(0x13b5, 0xed01) }, {} };

static struct pci_driver my_driver = {
	.name = "my_driver",
	.id_table = my_ids,
	.probe = my_probe,
	.remove = my_remove,
};
module_pci_driver(my_driver);

MODULE_DESCRIPTION("A driver under test");
MODULE_LICENSE("GPL");
"""
RIGHT = "dma_unmap_single(&pdev->dev, my->bus, SIZE, DMA_TO_DEVICE);"
FORGETS = "(void)my;"
TEST = """\
def test_bound(driver):
    with driver("my_driver") as bound:
        assert bound.module == "my_driver"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a driver and a test of it; its path has a space in it."""
    folder = tmp_path / "my project"
    for name, text in {
        "driver/Kbuild": "obj-m := my_driver.o\n",
        "driver/my_driver.c": DRIVER.replace("REMOVE", RIGHT),
        "common/size.h": "#define SIZE 64\n",
        "checks/test_driver.py": TEST,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def edit(project: Path, remove: str) -> None:
    (project / "driver/my_driver.c").write_text(DRIVER.replace("REMOVE", remove))


def test_edit_of_a_driver_is_seen_whatever_state_the_guest_comes_from(
    project: Path, tmp_path: Path
) -> None:
    number = 0

    def run(status: int) -> str:
        nonlocal number
        number += 1
        done = run_in(project, tmp_path / str(number), "--tests", "checks", MODULE="driver")
        check(done, status)
        return done.output

    run(0)
    edit(project, FORGETS)
    words = run(1)
    assert "NEVER_UNMAPPED by my_map at my_driver.c:8: " in words
    assert run(1).count("NEVER_UNMAPPED by my_map at my_driver.c:8: ")  # restored with its tests
    edit(project, "my->bus = nothing;")
    words = run(2)
    assert "driver/my_driver.c:31:" in words
    assert "error: 'nothing' undeclared" in words.replace("\u2018", "'").replace("\u2019", "'")
    edit(project, RIGHT)
    run(0)


def test_rehearsal_in_a_project_of_its_own(project: Path) -> None:
    edit(project, FORGETS)
    (project / "pytest.ini").write_text("[pytest]\nvm_module = driver\n")
    done = pytest_in(project, "--vm", "checks", "--vm-rehearse")
    assert done.returncode == 1
    facts = json.loads((project / "build/runs/latest/rehearsal.json").read_text())
    ((test, results),) = [each.values() for each in facts["tests"]]
    assert test == "checks/test_driver.py::test_bound"
    assert set(results.values()) == {"FAILED"}
    leak = facts["findings"][0]  # others may follow from it: the memory is used again
    assert (leak["kind"], leak["place"]) == (
        "DriverReportKind.NEVER_UNMAPPED",
        "my_map at my_driver.c:8",
    )
    assert leak["conditions"] == facts["conditions"]
    assert "under: every condition" in done.stdout


SYMBOLS = """
from dma_rehearsal.host_harness.debug_info.kernel_symbols import is_dma_api
from dma_rehearsal.host_harness.environment.user_modules import UserModules
from dma_rehearsal.host_harness.session import driver_names

def test_names(vm, guest):
    line, = guest.run(["grep", " t nvme_queue_rq$", "/proc/kallsyms"]).stdout.splitlines()
    mapping, = guest.run(["grep", " T dma_map_page_attrs$", "/proc/kallsyms"]).stdout.splitlines()
    callers = [int(each.split()[0], 16) + 5 for each in (mapping, line)]
    assert driver_names.of(UserModules(), vm).name(callers, {}) == "nvme_queue_rq+0x5"
"""


def test_driver_in_the_kernel_is_named_by_its_symbols(project: Path) -> None:
    (project / "test_names.py").write_text(SYMBOLS)
    done = pytest_in(project, "test_names.py")
    assert done.returncode == 0, done.stdout
