# SPDX-License-Identifier: Apache-2.0
"""The files on which a run depends are watched, each as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness.cli.watch_places import Kind, Places, listed
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests
from dma_rehearsal.host_harness.options import run_options

PROJECT = (
    *("mine/device.py", "mine/part.py", "checks/test_a.py", "checks/driver.py", "my.toml"),
    *("build/runs/log", "checks/.test_a.py.swp", "other/test_b.py"),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in PROJECT:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from . import part\n" if name == "mine/device.py" else "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(tests: GuestTests, **given: str) -> Places:
    return Places(run_options.parse(given), tests, Path("build", "runs"))


def kinds(found: Places, root: Path) -> dict[str, Kind]:
    """Return the kinds of the files below ``root``, as far as they are watched."""
    return {
        str(path.relative_to(root)): found.kind(path)
        for path in found.look()
        if path.is_relative_to(root)
    }


def test_files_of_a_project(project: Path) -> None:
    found = places(GuestTests(project, ("checks",)), endpoint="mine.device:Device")
    assert kinds(found, project) == {
        "checks/test_a.py": Kind.TEST,
        "checks/driver.py": Kind.TEST,
        "mine/device.py": Kind.ENDPOINT,
        "mine/part.py": Kind.ENDPOINT,
    }
    assert found.name(project / "checks" / "test_a.py") == "checks/test_a.py"


def test_module_that_the_endpoint_begins_to_import(project: Path) -> None:
    found = places(GuestTests(project, ("checks",)), endpoint="mine.device:Device")
    found.look()
    (project / "mine" / "extra.py").touch()
    (project / "mine" / "device.py").write_text("from . import extra\n")
    found.look()
    assert found.kind(project / "mine" / "extra.py") is Kind.ENDPOINT
    assert project / "mine" / "extra.py" in found.look()


def test_profile_is_a_file_of_the_users_or_of_this_project(project: Path) -> None:
    path = (profile.SHIPPED / "nvme.toml").resolve()
    (project / "my.toml").write_bytes(path.read_bytes())
    found = places(GuestTests(project, ("checks",)), profile="my.toml")
    assert kinds(found, project)["my.toml"] is Kind.GUEST
    assert places(GuestTests(), profile="nvme").kind(path) is Kind.GUEST
    assert places(GuestTests()).kind(path) is Kind.HARNESS


def test_sources_of_a_module_under_test(project: Path) -> None:
    for name, text in {
        "drv/Kbuild": "obj-m := my.o\n",
        "drv/my.c": '#include "../common/ring.h"\n',
        "drv/my.o": "",
        "drv/device.py": "",
        "common/ring.h": "",
        "common/other.h": "",
    }.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    found = places(GuestTests(project, ("checks",)), module="drv", endpoint="drv.device:Device")
    seen = {name: kind for name, kind in kinds(found, project).items() if "checks" not in name}
    assert seen == {
        "drv/Kbuild": Kind.GUEST,
        "drv/my.c": Kind.GUEST,
        "common/ring.h": Kind.GUEST,
        "drv/device.py": Kind.ENDPOINT,
    }
    (project / "drv/my.c").write_text('#include "../common/other.h"\n')
    (project / "drv/more.c").touch()
    assert {"drv/more.c", "common/other.h"} <= kinds(found, project).keys()
    (project / "drv/my.c").unlink()  # in the middle of an editor's rename
    assert "drv/my.c" not in kinds(found, project)


def test_folder_of_the_runs_is_left_out(project: Path) -> None:
    assert "build/runs/log" not in kinds(places(GuestTests(project, ("build",))), project)


def test_files_of_this_project(project: Path) -> None:
    own = places(GuestTests())
    suite, driver = "guest/suite/test_ring.py", "guest/driver/dma_rehearsal_pci.c"
    assert own.kind(SOURCE / suite) is Kind.TEST
    assert own.kind(SOURCE / driver) is Kind.GUEST
    assert own.kind(SOURCE / "guest/iobuffer/cxx.py") is Kind.GUEST
    assert own.kind(SOURCE / "device/trace.py") is Kind.HARNESS
    assert own.kind(SOURCE / "host_harness/faults.py") is Kind.HARNESS
    assert {SOURCE / suite, SOURCE / driver} <= set(own.look())
    assert own.name(SOURCE / suite) == "suite/test_ring.py"
    others = places(GuestTests(project, ("checks",))).look()
    assert SOURCE / suite not in others, "the suite does not run there"
    assert SOURCE / driver in others


def test_paths_for_people(project: Path) -> None:
    assert listed([project / "b", project / "a"]) == "a, b"
    assert listed(project / name for name in "abcde") == "a, b, c and 2 more"
