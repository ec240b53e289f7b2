# SPDX-License-Identifier: Apache-2.0
"""The files of an endpoint: its module, and the modules beside it that it imports.

They are found by reading: importing them would run code of the user's, and keep it.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_FILES_MAX = 1000
_OURS = "dma_rehearsal"  # its own changes are looked for elsewhere


def search_path() -> list[Path]:
    """Return the folders in which the device process finds a user's module.

    Folders of installed packages are not among them: nobody edits these.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    folders = [Path.cwd(), *map(Path, filter(None, [*given, *sys.path]))]
    return list(
        dict.fromkeys(
            folder.resolve()
            for folder in folders
            if not any(folder.resolve().is_relative_to(prefix) for prefix in installed)
        )
    )


def files(endpoint: str, folders: Sequence[Path]) -> frozenset[Path]:
    """Return the files of ``MODULE:CLASS,...``, as far as they are in ``folders``.

    A file that cannot be read, or has a mistake in it, is among them; what it imports is not.
    """
    found: set[Path] = set()
    waiting = [each.strip().partition(":")[0] for each in endpoint.split(",")]
    seen: set[str] = set()
    while waiting and len(found) < _FILES_MAX:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] == _OURS:
            continue
        seen.add(name)
        if parent := name.rpartition(".")[0]:
            waiting.append(parent)  # a package's own __init__ runs first
        if file := _file_of(name, folders):
            found.add(file)
            package = name if file.name == "__init__.py" else parent
            waiting += _imported(file, package)
    return frozenset(found)


def _file_of(name: str, folders: Iterable[Path]) -> Path | None:
    for folder in folders:
        place = folder.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return path
    return None


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield the names that ``file`` may import; of ``from a import b`` also ``a.b``."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
