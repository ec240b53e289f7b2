# SPDX-License-Identifier: Apache-2.0
"""The example project, with pytest run in it as its own developer would."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from subprocess import CompletedProcess

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import call

_PLUGIN = "dma_rehearsal.host_harness.pytest_plugin"


def copy_of_the_example(folder: Path) -> Path:
    """Return a copy of the example project below ``folder``; its path has a space in it."""
    return Path(shutil.copytree(SOURCE / "examples" / "driver_project", folder / "my driver"))


def pytest_in(project: Path, *arguments: str) -> CompletedProcess[str]:
    """Run pytest with the plugin in a project that uses this checkout."""
    argv = [sys.executable, "-m", "pytest", "-p", _PLUGIN, *arguments]
    return call(argv, project, PYTHONPATH=str(SOURCE))
