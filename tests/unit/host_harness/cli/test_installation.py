# SPDX-License-Identifier: Apache-2.0
"""An installed dma-rehearsal, or its egg-info in a checkout, changes no test run of the project."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import clean_environment

ENTRY_POINTS = """\
[pytest11]
dma_rehearsal.host_harness.pytest_plugin = dma_rehearsal.host_harness.pytest_plugin
"""


@pytest.fixture
def egg_info(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with what ``pip install`` used to leave in the checkout."""
    folder = tmp_path / "dma_rehearsal.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: dma-rehearsal\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def run_pytest(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(PYTHONPATH=str(path))
    # As a user's shell has it: what is under test sets this itself.
    del environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_egg_info_makes_this_project_a_plugin(egg_info: Path) -> None:
    """So the next test is about something."""
    done = run_pytest(egg_info, "--help", "tests/unit/host_harness/session/test_schedule.py")
    assert "--vm-endpoint=" in done.stdout


def test_units_within_stay_units_beside_an_egg_info(egg_info: Path) -> None:
    """The guest's suite finds its own ``device`` there, and not the plugin's, which boots a VM."""
    done = run_pytest(
        egg_info, "tests/inprocess/test_whole_suite.py", "-k", "test_seed_decides_the_data"
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert "environment" not in done.stderr


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build's backend, on a setuptools that leaves what it is known for where it is."""

    def leave(*arguments: Any) -> Any:
        here = Path.cwd()
        (here / "dma_rehearsal.egg-info").mkdir()
        (here / "build").mkdir()
        names = sorted(path.name for path in here.iterdir())
        assert not list(here.rglob("__pycache__"))
        assert not [path for path in here.rglob("*") if path.is_symlink()], "folders, not links"
        assert (here / "dma_rehearsal" / "guest" / "driver" / "Kbuild").is_file()
        return [*names, *map(str, arguments)]

    names = ("wheel", "sdist")
    hooks = {f"get_requires_for_build_{name}": leave for name in (*names, "editable")}
    hooks |= {f"prepare_metadata_for_build_{name}": leave for name in ("wheel", "editable")}
    hooks |= {f"build_{name}": leave for name in (*names, "editable")}
    build_meta = SimpleNamespace(**hooks)
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(build_meta=build_meta))
    monkeypatch.setitem(sys.modules, "setuptools.build_meta", build_meta)
    spec = importlib.util.spec_from_file_location("backend", SOURCE / "pip_build" / "backend.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_build_leaves_nothing_in_the_checkout(backend: ModuleType, tmp_path: Path) -> None:
    before = sorted(os.listdir(SOURCE))  # noqa: PTH208
    said = [
        backend.get_requires_for_build_wheel(),
        backend.get_requires_for_build_sdist(),
        backend.prepare_metadata_for_build_wheel(str(tmp_path)),
        backend.build_wheel(str(tmp_path), None, str(tmp_path)),
        backend.build_sdist(str(tmp_path)),
    ]
    assert sorted(os.listdir(SOURCE)) == before  # noqa: PTH208
    for names in said:
        assert "'build', 'dma_rehearsal', 'dma_rehearsal.egg-info', 'pip_build'" in str(names)
    assert str(tmp_path) in str(said[-1])
