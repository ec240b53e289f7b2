# SPDX-License-Identifier: Apache-2.0
"""The exerciser as ``lspci -vvv -xxxx`` shows it in the guest, held against a golden text.

lspci is somebody else's parser of our configuration space, with QEMU and Linux between. After a
change that is meant: ``REGOLD=1 pytest -m vm tests/vm/test_lspci.py``, then look at the diff.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import LIMIT_S, clean_environment
from tests.unit.device.pci.lspci_text import GOLDEN, VARIANTS, missing, normal

DUMP = """
from pathlib import Path

def test_dump(guest):
    shown = guest.run(["lspci", "-n", "-vvv", "-xxxx", "-d", "13b5:ed01"])
    Path("shown").write_text(shown.stdout.partition("\\n\\n")[0])  # the next one is the peer
"""


def dump(folder: Path, *options: str) -> str:
    """Boot a guest and return what lspci says there."""
    (folder / "test_dump.py").write_text(DUMP)
    plugin = ("-p", "dma_rehearsal.host_harness.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "test_dump.py", *options],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(SOURCE)),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    assert done.returncode == 0
    return normal((folder / "shown").read_text())


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, marks=() if each == "exerciser" else pytest.mark.full)
        for each in VARIANTS
    ],
)
def test_as_the_guest_sees_it(tmp_path: Path, variant: str) -> None:
    served = [f"--vm-endpoint={VARIANTS[variant]}"] if VARIANTS[variant] else []
    found = dump(tmp_path, *served)
    golden = GOLDEN.with_stem(variant)
    if os.environ.get("REGOLD"):
        golden.write_text(found)
    assert not missing(found, golden.read_text())
    assert found == golden.read_text()


@pytest.mark.full
def test_capability_that_is_hidden_is_named(tmp_path: Path) -> None:
    found = dump(tmp_path, "--vm-fault=device-capability-hidden")
    assert missing(found, GOLDEN.read_text()) == ["Capabilities: [7c] Power Management version 3"]
    assert found != GOLDEN.read_text()
