# SPDX-License-Identifier: Apache-2.0
"""The Python packages that go into the guest image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import guest_packages
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure


def test_a_state_machine_runs_on_the_copies_alone(tmp_path: Path) -> None:
    guest_packages.copy(tmp_path)
    script = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import pytest, hypothesis, hypothesis.stateful as s\n"
        "class Machine(s.RuleBasedStateMachine):\n"
        "    @s.rule()\n"
        "    def step(self): pass\n"
        "s.run_state_machine_as_test(Machine, settings=hypothesis.settings(database=None))\n"
        "print(hypothesis.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr


def test_no_plugin_and_no_machine_code_is_copied(tmp_path: Path) -> None:
    guest_packages.copy(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert "hypothesis/stateful.py" in names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert not [name for name in names if "pytestplugin" in name or "hypothesis/extra/" in name]
    assert not list(tmp_path.glob("hypothesis-*.dist-info/entry_points.txt"))


def test_a_package_with_an_extension_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host"
    info = host / "fast-1.5.dist-info"
    info.mkdir(parents=True)
    (host / "_fast.cpython-313-x86_64-linux-gnu.so").touch()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 1.5\n")
    (info / "RECORD").write_text("_fast.cpython-313-x86_64-linux-gnu.so,,\n")
    monkeypatch.syspath_prepend(str(host))
    monkeypatch.setattr(guest_packages, "_PACKAGES", ("fast",))
    with pytest.raises(EnvironmentFailure, match=r"fast 1\.5 has an extension .*_fast\.cpython"):
        guest_packages.copy(tmp_path / "guest")
