# SPDX-License-Identifier: Apache-2.0
"""An endpoint's files: its module, and what that imports from beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import endpoint_files
from dma_rehearsal.host_harness.environment.payload import SOURCE

PROJECT = {
    "mine/__init__.py": "from . import constants\n",
    "mine/constants.py": "",
    "mine/parts/registers.py": "import json\nfrom ..constants import SIZE\n",
    "mine/device.py": (
        "import struct\n"
        "from dma_rehearsal.device.endpoints import Endpoint\n"
        "from .parts import registers\n"
        "import helper\n"
    ),
    "helper.py": "def late():\n    import later\n",
    "later.py": "",
    "unrelated.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(project: Path, endpoint: str) -> set[str]:
    found = endpoint_files.files(endpoint, [project])
    return {str(path.relative_to(project)) for path in found}


def test_module_and_what_it_imports_beside_it(project: Path) -> None:
    assert names(project, "mine.device:Device") == set(PROJECT) - {"unrelated.py"}
    assert names(project, "unrelated:Device") == {"unrelated.py"}


def test_files_of_several_devices(project: Path) -> None:
    (project / "second.py").write_text("")
    alone = names(project, "mine.device:Device")
    assert names(project, "mine.device:Device,second:Two") == alone | {"second.py"}


def test_module_with_a_mistake_is_among_them(project: Path) -> None:
    (project / "mine" / "device.py").write_text("class Device(\n")
    assert names(project, "mine.device:Device") == {
        "mine/__init__.py",
        "mine/constants.py",
        "mine/device.py",
    }


def test_unknown_module_has_no_files(project: Path) -> None:
    assert names(project, "nowhere.at.all:Device") == set()


def test_the_projects_own_device_is_left_out() -> None:
    found = endpoint_files.files("examples.checksum.checksum_device:Checksum", [SOURCE])
    assert found == {SOURCE / "examples" / "checksum" / "checksum_device.py"}


def test_search_path_has_the_current_folder_and_nothing_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    found = endpoint_files.search_path()
    assert found[:2] == [tmp_path, tmp_path / "other"]
    assert not [path for path in found if "site-packages" in path.parts]
