# SPDX-License-Identifier: Apache-2.0
"""Compiles Python files for the guest: bytecode, and for test files pytest's rewritten bytecode.

A program for the guest's Python, which the harness runs when files have changed:

    python3.11 compile_for_guest.py PACKAGES FOLDER NAME_IN_GUEST

It writes the bytecode into the ``__pycache__`` of each file's folder, and prints a JSON object: for
each file its files of bytecode. PACKAGES has pytest.

A file gives the same bytes whatever is compiled with it, and wherever FOLDER is. `marshal` marks
strings that the process uses elsewhere, too. So each file has a process of its own, forked from the
same state; that process sees paths below FOLDER only, and its parent none as a `pathlib.Path`,
which interns the parts. A file that kills the compiler costs its own bytecode only.

The guest never compares times or sources of plain bytecode. Of the rewritten bytecode pytest does:
a file that is edited in the guest is rewritten there. So is a file without bytecode: one that only
the options of a run make a test file, and one that does not compile, whose error the guest reports.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import marshal
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

_TEST_FILES = ("test_*.py", "*_test.py", "conftest.py")  # pytest's own python_files; its plugins
_UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552


def compile_plain(path: str, name: str) -> None:
    """Write the bytecode of ``path``, which is ``name`` in the guest; nothing when it has none."""
    with open(path, "rb") as file:  # noqa: PTH123 - see above
        source = file.read()
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except Exception:  # the import in the guest raises it again, with file and line
        return
    kept = importlib.util.cache_from_source(path)
    os.makedirs(os.path.dirname(kept), exist_ok=True)  # noqa: PTH103, PTH120
    with open(kept, "wb") as file:  # noqa: PTH123
        file.write(importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH)
        file.write(importlib.util.source_hash(source) + marshal.dumps(code))


def rewrite(path: str, name: str) -> None:
    """Write pytest's bytecode of a test file; nothing where a pytest keeps it differently."""
    from _pytest.assertion import rewrite as by_pytest

    file = Path(path)
    source = file.read_bytes()
    os.utime(path, (0, 0))  # as in the guest
    try:
        # pytest identifies a source by its hash; before 9.2 by its time and size.
        stamp, _ = by_pytest._rewrite_test(file, None)  # type: ignore[arg-type]
        tree = ast.parse(source, name)
        by_pytest.rewrite_asserts(tree, source, name)
        code = compile(tree, name, "exec", dont_inherit=True)
        kept = by_pytest.get_cache_dir(file) / f"{file.stem}{by_pytest.PYC_TAIL}"
    except Exception:  # pytest in the guest raises it again, or rewrites the file
        return
    kept.parent.mkdir(exist_ok=True)
    with kept.open("wb") as out:
        by_pytest._write_pyc_fp(out, stamp, code)


def each_alone(paths: Sequence[str], step: Callable[[str], None]) -> bool:
    """Call ``step`` for each path in a forked process; return whether none failed.

    A process that a signal ends (its file may be nested too deeply) has only made no bytecode.
    """
    most, sound = len(os.sched_getaffinity(0)), True
    running: list[int] = []
    for path in paths:
        if len(running) == most:
            sound &= _is_sound(running.pop(0))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                step(path)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        running.append(child)
    for child in running:
        sound &= _is_sound(child)
    return sound


def _is_sound(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0


def _sources() -> list[str]:
    return sorted(
        os.path.relpath(f"{folder}/{name}")
        for folder, _, names in os.walk(".")
        for name in names
        if name.endswith(".py")
    )


def _bytecode_of(source: str) -> list[str]:
    folder, name = os.path.split(source)
    kept = os.path.join(folder, "__pycache__")  # noqa: PTH118
    stem = f"{name.removesuffix('.py')}.{sys.implementation.cache_tag}"
    with_pytest = f"{stem}-pytest-"
    return sorted(
        os.path.join(kept, each)  # noqa: PTH118
        for each in (os.listdir(kept) if os.path.isdir(kept) else ())  # noqa: PTH112, PTH208
        if each == f"{stem}.pyc" or each.startswith(with_pytest)
    )


def main(packages: str, folder: str, name_in_guest: str) -> int:
    """Compile the files below ``folder``; return the exit status."""
    os.chdir(folder)
    sources = _sources()
    tests = [
        path
        for path in sources
        if any(fnmatchcase(os.path.basename(path), pattern) for pattern in _TEST_FILES)  # noqa: PTH119
    ]
    sound = each_alone(sources, lambda path: compile_plain(path, f"{name_in_guest}/{path}"))
    if tests:
        sys.path.append(packages)
        import _pytest.assertion.rewrite  # noqa: F401 - once for all processes

        sound &= each_alone(tests, lambda path: rewrite(path, f"{name_in_guest}/{path}"))
    print(json.dumps({source: _bytecode_of(source) for source in sources}))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
