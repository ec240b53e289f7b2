# SPDX-License-Identifier: Apache-2.0
"""Imports of modules beside the guest tests, which work as in a plain pytest.

The mode ``--import-mode=prepend`` of pytest puts the folder of each test file on sys.path, where
the first of two modules with one name silently wins. Here that is an error, as soon as one is
imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest


class SiblingModules:
    """A pytest plugin, and Python's last module finder: it looks beside the test files."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._found: dict[str, str] = {}  # the file of each module that was imported this way

    def pytest_configure(self) -> None:
        """Find modules that neither Python nor the guest has."""
        sys.meta_path.append(self)

    def pytest_unconfigure(self) -> None:
        """Find no more modules."""
        sys.meta_path.remove(self)

    def pytest_pycollect_makemodule(self, module_path: Path) -> None:
        """Also look beside this file; for a file of a package, beside the package's folder.

        CollectError when this folder has a module of the same name as one that was
        imported.
        """
        folder = module_path.parent
        while (folder / "__init__.py").exists() and folder.parent != folder:
            folder = folder.parent
        if str(folder) in self._folders:
            return
        self._folders.append(str(folder))
        for name, file in self._found.items():
            spec = PathFinder.find_spec(name, [str(folder)])
            if spec and spec.origin:
                raise pytest.Collector.CollectError(_ambiguous(name, [file, spec.origin]))

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where a module is; ImportError when several folders have one of that name."""
        if path is not None:  # a part of a package, which finds it itself
            return None
        specs = [PathFinder.find_spec(name, [folder]) for folder in self._folders]
        found = {spec.origin: spec for spec in specs if spec and spec.origin}
        if len(found) > 1:
            raise ImportError(_ambiguous(name, list(found)), name=name)
        for origin, spec in found.items():
            self._found[name] = origin
            return spec
        return None


def _ambiguous(name: str, files: Sequence[str]) -> str:
    return (
        f"several folders of guest tests have a module {name}: {' and '.join(files)}; next: rename "
        "one of them"
    )
