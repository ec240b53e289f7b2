# SPDX-License-Identifier: Apache-2.0
"""bootstrap.sh: what is missing is named with one command; a half-made venv is made again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import host_tools
from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.unit.host_harness.environment.programs import program
from tests.unit.host_harness.wrapped import run_within

SCRIPT = SOURCE / "host_harness" / "environment" / "bootstrap.sh"
_NEEDED = (
    *("sh", "cat", "cksum", "cp", "dirname", "env", "grep", "id", "mkdir", "mktemp", "rm", "sleep"),
    *("tail", "tr"),
)
# Stands for python3: makes a "virtual environment" whose pip is the script in $FAKE_PIP.
_PYTHON = f"""\
case $* in
--version) echo Python 3.11.0 ;;
*-m\\ venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*-m\\ pip*) echo pip >>"$FAKE_LOG"; {sys.executable} -c "$FAKE_PIP" && echo >"${{0%/*}}/packages" ;;
*find_spec*) test -e "${{0%/*}}/packages" ;;
*ensurepip*) exit "${{FAKE_NO_VENV:-0}}" ;;
esac
"""


class Host:
    """A machine whose programs are the ones in ``programs`` alone."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.venv = folder / "build" / "venv"
        self.log = folder / "log"
        self.programs.mkdir()
        for name in (*_NEEDED, *host_tools.PACKAGES):
            (self.programs / name).symlink_to(shutil.which(name) or "/bin/true")
        (self.programs / "python3").unlink()
        program(self.programs / "python3", _PYTHON)
        self.user(1000)

    def user(self, number: int) -> None:
        """Say who runs it: 0 is root, whatever really is."""
        (self.programs / "id").unlink()
        program(self.programs / "id", f"echo {number}")

    def lack(self, name: str) -> None:
        (self.programs / name).unlink()

    def command(self) -> list[str]:
        return ["sh", str(SCRIPT), str(self.venv)]

    def environment(self, **more: str) -> dict[str, str]:
        base = {"PATH": str(self.programs), "FAKE_LOG": str(self.log), "FAKE_PIP": ""}
        return {**os.environ, **base, **more}

    def run(self, **more: str) -> subprocess.CompletedProcess[str]:
        return run_within([], self.command(), **self.environment(**more))

    def installations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_made_once(host: Host) -> None:
    first, second = host.run(), host.run()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "making the virtual environment" in first.stdout
    assert second.stdout == ""
    assert host.installations() == 1


def test_packages_are_those_that_the_harness_calls(host: Host) -> None:
    for name in ("mmdebstrap", "xz"):
        host.lack(name)
    done = host.run()
    assert done.returncode == 3
    assert "error: missing: mmdebstrap xz" in done.stderr
    command = re.search(r"next: as root, run: apt-get update && apt-get install (.*)", done.stderr)
    assert command is not None
    named = set(command.group(1).split()) - {"-y", "--no-install-recommends"}
    assert named >= {package for package in host_tools.PACKAGES.values() if package != "apt"}
    assert named >= set(host_tools.COMPILER_PACKAGES.values())
    assert named >= {"debian-archive-keyring", "python3-venv"}


@pytest.mark.parametrize("name", sorted(set(host_tools.PACKAGES) - {"python3"}))
def test_every_tool_of_the_harness_is_looked_for(host: Host, name: str) -> None:
    host.lack(name)
    done = host.run()
    assert done.returncode == 3
    assert f"missing: {name} " in done.stderr


def test_python_without_venv(host: Host) -> None:
    done = host.run(FAKE_NO_VENV="1")
    assert done.returncode == 3
    assert "missing: python3-venv" in done.stderr
    assert "apt-get install" in done.stderr


def test_no_python_at_all(host: Host) -> None:
    host.lack("python3")
    done = host.run()
    assert done.returncode == 3
    assert "missing: python3 " in done.stderr


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Err:1 http://x InRelease Temporary failure resolving 'x'", "no network"),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "no space"),
        ("E: something new", "the system packages cannot be installed\n"),
    ],
)
def test_root_whose_apt_fails(host: Host, said: str, cause: str) -> None:
    host.user(0)
    host.lack("xz")
    host.lack("apt-get")
    # As the real one: update reports and succeeds, and the installation fails.
    program(
        host.programs / "apt-get",
        f'case $* in *update*) echo "{said}" ;; *) echo "E: no candidate"; exit 100 ;; esac',
    )
    done = host.run()
    assert done.returncode == 3
    assert cause in done.stderr
    assert "  next: " in done.stderr


def test_root_whose_apt_works(host: Host) -> None:
    host.user(0)
    host.lack("xz")
    host.lack("apt-get")
    program(
        host.programs / "apt-get",
        f"case $* in *install*) cp {host.programs}/lz4 {host.programs}/xz ;; esac",
    )
    done = host.run()
    assert done.returncode == 0, done.stderr
    assert "installing system packages (missing: xz )" in done.stdout


def test_root_whose_apt_installs_something_else(host: Host) -> None:
    host.user(0)
    host.lack("xz")
    host.lack("apt-get")
    program(host.programs / "apt-get", "exit 0")
    done = host.run()
    assert done.returncode == 3
    assert "still missing after the installation: xz" in done.stderr


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("NewConnectionError: Failed to establish a new connection", "no network"),
        ("OSError: [Errno 28] No space left on device", "no space"),
        ("ERROR: Hashes do not match", "cannot be installed\n"),
    ],
)
def test_pip_that_fails_leaves_no_stamp(host: Host, said: str, cause: str) -> None:
    done = host.run(FAKE_PIP=f"import sys; sys.exit({said!r})")
    assert done.returncode == 3
    assert cause in done.stderr
    assert said in done.stderr
    assert not (host.venv / ".made-from").exists()
    assert host.run().returncode == 0, "made again"


def test_real_pip_without_a_network(no_network: list[str], tmp_path: Path) -> None:
    environment = {
        "PIP_CONFIG_FILE": "/dev/null",  # a machine may have an index of its own, on its disk
        "PIP_INDEX_URL": "https://index.invalid/simple",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "1",
    }
    done = run_within(no_network, ["sh", str(SCRIPT), str(tmp_path / "venv")], **environment)
    assert done.returncode == 3, done.stdout
    assert "no network" in done.stderr
    assert "  next: connect this machine" in done.stderr


def test_changed_requirements_and_lost_packages_make_it_again(host: Host) -> None:
    assert host.run().returncode == 0
    (host.venv / ".made-from").write_text("of another requirements.lock\n")
    assert host.run().returncode == 0
    (host.venv / "bin" / "packages").unlink()
    assert host.run().returncode == 0
    assert host.installations() == 3


def test_folder_that_cannot_be_made(host: Host) -> None:
    host.venv.parent.write_text("a file where the folder should be")
    done = host.run()
    assert done.returncode == 3
    assert "cannot be written" in done.stderr


def _begin(host: Host, pip: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        host.command(),
        env=host.environment(FAKE_PIP=pip),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _start(host: Host, pip: str) -> subprocess.Popen[str]:
    runner = _begin(host, pip)
    deadline = time.monotonic() + 20
    while host.installations() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return runner


def test_two_at_once_make_it_once(host: Host, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    waits = f"""
import pathlib, time
for _ in range(6000):
    if pathlib.Path({str(go_on)!r}).exists():
        break
    time.sleep(0.01)
"""
    with _start(host, waits) as first, _begin(host) as second:
        assert second.stdout is not None
        said = ""
        while "another run makes" not in said and (line := second.stdout.readline()):
            said += line
        go_on.touch()
        first.communicate()
        said += second.communicate()[0]
    assert "another run makes the virtual environment" in said
    assert (first.returncode, second.returncode) == (0, 0), said
    assert host.installations() == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_half_way_is_made_again(host: Host, number: signal.Signals) -> None:
    """Its pip lives on for a while; the next run waits for it and then begins anew."""
    first = _start(host, "import time; time.sleep(0.7)")
    first.send_signal(number)
    second = host.run()
    first.communicate()
    assert second.returncode == 0, second.stderr
    assert host.installations() == 2
    assert (host.venv / ".made-from").exists()
