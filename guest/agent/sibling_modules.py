# SPDX-License-Identifier: Apache-2.0
"""Modules beside the guest tests can be imported, as they can in a plain pytest.

pytest's own way (``--import-mode=prepend``) puts the folder of each test file on sys.path, where of
two modules of one name the first silently wins. Here that is an error, as soon as one is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest


class SiblingModules:
    """A plugin, and what Python asks last for a module: it looks beside the test files."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._found: dict[str, str] = {}  # the file of each module that was imported so

    def pytest_configure(self) -> None:
        """Be asked when neither Python nor the guest has a module of that name."""
        sys.meta_path.append(self)

    def pytest_unconfigure(self) -> None:
        """Be asked no more."""
        sys.meta_path.remove(self)

    def pytest_pycollect_makemodule(self, module_path: Path) -> None:
        """Look beside this file, too; for one of a package beside the package's folder.

        CollectError when a module was imported whose name one in this folder has as well.
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
        if path is not None:  # a part of a package, which knows its own
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
