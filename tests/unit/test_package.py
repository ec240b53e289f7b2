# SPDX-License-Identifier: Apache-2.0
"""The archives: one import name, which a project's own modules of any name can stand beside."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import clean_environment

FOLDERS = ("device", "guest", "host_harness")
PLUGIN = "dma_rehearsal.host_harness.pytest_plugin"
LIMIT_S = 300


def call(argv: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment()
    for name in ("PYTHONPATH", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        environment.pop(name, None)
    done = subprocess.run(
        list(map(str, argv)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    assert call([*build, folder, SOURCE], folder).returncode == 0
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def python(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh virtual environment that has the wheel.

    The dependencies are this environment's, by a .pth file: nothing is downloaded.
    """
    return installed(tmp_path_factory.mktemp("wheel"), only(archives, "*.whl"))


def installed(folder: Path, archive: Path) -> Path:
    assert call([sys.executable, "-m", "venv", "--without-pip", folder], folder).returncode == 0
    (site,) = folder.glob("lib/python*/site-packages")
    (ours,) = (path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{ours}\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    assert call([*pip, *options, archive], folder).returncode == 0
    return python


def test_archives_pass_the_registry_s_check(archives: Path) -> None:
    argv = [sys.executable, "-m", "twine", "--no-color", "check", "--strict"]
    done = call([*argv, *archives.iterdir()], archives)
    assert done.returncode == 0
    assert done.stdout.count("PASSED") == 2


def test_wheel_has_one_import_name(archives: Path) -> None:
    with zipfile.ZipFile(only(archives, "*.whl")) as wheel:
        names = wheel.namelist()
        (top_level,) = (name for name in names if name.endswith("top_level.txt"))
        assert wheel.read(top_level).decode().split() == ["dma_rehearsal"]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"dma_rehearsal", top_level.split("/")[0]}


def test_wheel_has_every_file_of_the_folders(archives: Path) -> None:
    wanted = {
        f"dma_rehearsal/{path.relative_to(SOURCE)}"
        for folder in FOLDERS
        for path in (SOURCE / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "dma_rehearsal/guest/driver/Kbuild" in wanted
    with zipfile.ZipFile(only(archives, "*.whl")) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("dma_rehearsal/")}
    assert names == {*wanted, "dma_rehearsal/__init__.py", "dma_rehearsal/py.typed"}


def test_archives_carry_both_licences(archives: Path) -> None:
    texts = {(SOURCE / "LICENSE").read_bytes(), (SOURCE / "guest/driver/LICENSE").read_bytes()}
    with zipfile.ZipFile(only(archives, "*.whl")) as wheel:
        found = {wheel.read(name) for name in wheel.namelist() if "/licenses/" in name}
        (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        assert "License-Expression: Apache-2.0 AND GPL-2.0-only\n" in wheel.read(metadata).decode()
    assert found == texts


def test_source_archive_has_folders_and_no_links(archives: Path) -> None:
    with tarfile.open(only(archives, "*.tar.gz")) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    tops = {"/".join(member.name.split("/")[1:2]) for member in members}
    assert not tops & set(FOLDERS)


@pytest.mark.full
def test_source_archive_installs(archives: Path, tmp_path: Path) -> None:
    python = installed(tmp_path, only(archives, "*.tar.gz"))
    done = call([python, "-m", "dma_rehearsal.device", "--help"], tmp_path)
    assert done.returncode == 0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with modules of its own that have the names of our folders and files."""
    for name in ("device.py", "host_harness.py", "layout.py", "guest/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("OWNER = 'the project'\n")
    (tmp_path / "conftest.py").write_text("")
    (tmp_path / "test_own.py").write_text(
        "import device, guest, host_harness, layout\n\n\n"
        "def test_own(request):\n"
        "    assert {m.OWNER for m in (device, guest, host_harness, layout)} == {'the project'}\n"
        f"    assert request.config.pluginmanager.hasplugin({PLUGIN!r})\n"
    )
    return tmp_path


def test_names_of_the_project_stay_its_own(python: Path, project: Path) -> None:
    done = call(
        [python, "-c", "import device, guest; print(device.__file__, guest.OWNER)"], project
    )
    assert done.stdout.split(maxsplit=1) == [str(project / "device.py"), "the project\n"]
    done = call([python, "-m", "pytest", "-q", "-p", "no:cacheprovider"], project)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True)


@pytest.mark.parametrize("arguments", [["--help"], ["faults"], ["device", "--help"]])
def test_command_works_beside_the_project(
    python: Path, project: Path, arguments: list[str]
) -> None:
    assert call([python.parent / "dma-rehearsal", *arguments], project).returncode == 0


def test_module_works_beside_the_project(python: Path, project: Path) -> None:
    assert call([python, "-m", "dma_rehearsal.host_harness", "--help"], project).returncode == 0


def test_names_of_the_folders_are_not_importable_alone(python: Path, tmp_path: Path) -> None:
    find = "import importlib.util, sys; print([importlib.util.find_spec(n) for n in sys.argv[1:]])"
    done = call([python, "-c", find, *FOLDERS], tmp_path)
    assert done.stdout == "[None, None, None]\n"


def test_doctor_advises_no_make_where_it_is_installed(python: Path, project: Path) -> None:
    done = call([python.parent / "dma-rehearsal", "doctor"], project)
    assert done.returncode in (0, 3), "whatever this machine has"
    assert "packages      ok       pytest " in done.stdout
    assert "make " not in done.stdout
