# SPDX-License-Identifier: Apache-2.0
"""The Python packages in the guest image. They are copies of the host's, for the same reports.

The guest's Python is not the host's: the packages must be pure Python.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

# pytest, Hypothesis for the state machines of the guest's tests, and what they import.
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
_PACKAGES = (*PYTEST, "hypothesis", "sortedcontainers")
# pytest imports these lexers when it starts; those of 500 other languages are most of Pygments.
_LEXERS = ("__init__.py", "_mapping.py", "diff.py", "python.py")
# Hypothesis for other packages, lists of names and seconds, and its plugin for pytest, with the
# entry point that would load it into every session.
_LEFT_OUT = (
    *("hypothesis/extra/*", "hypothesis/vendor/*.txt", "_hypothesis_pytestplugin.py"),
    *("_hypothesis_ftz_detector.py", "hypothesis-*.dist-info/entry_points.txt"),
)


def versions() -> dict[str, str]:
    """Return each package's version; PackageNotFoundError for one that the host does not have."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def copy(site: Path, names: Sequence[str] | None = None) -> None:
    """Copy the packages, or those of ``names``, into the folder ``site``.

    EnvironmentFailure for a version that has an extension in machine code.
    """
    site.mkdir(parents=True, exist_ok=True)
    for name in names or _PACKAGES:
        for file in importlib.metadata.files(name) or []:
            if not _is_wanted(file):
                continue
            if file.suffix == ".so":
                raise EnvironmentFailure(
                    f"{name} {importlib.metadata.version(name)} has an extension for the host's "
                    f"Python ({file.name}), which the guest's cannot load",
                    f"{advice.packages()}: the versions that it asks for are pure Python",
                )
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), target)


def _is_wanted(file: importlib.metadata.PackagePath) -> bool:
    if file.suffix == ".pyc" or file.parts[0] == "..":
        return False
    if file.parts[:2] == ("pygments", "lexers"):
        return file.name in _LEXERS
    return not any(fnmatchcase(str(file), pattern) for pattern in _LEFT_OUT)
