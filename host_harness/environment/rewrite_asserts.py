# SPDX-License-Identifier: Apache-2.0
"""Rewrites the asserts of test files as pytest does, and saves the bytecode where it looks for it.

A program for the guest's Python, which the harness runs while it packs the tests:

    python3.11 rewrite_asserts.py PACKAGES FOLDER NAME_IN_GUEST

pytest uses such bytecode only while its source is unchanged: a file that is edited in the guest is
rewritten there. So is a file without bytecode: one that only the options of a run make a test file,
and one that does not compile, whose error the guest reports.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

_TEST_FILES = ("test_*.py", "*_test.py", "conftest.py")  # pytest's own python_files; its plugins


def rewrite(folder: Path, name_in_guest: str) -> None:
    """Write the bytecode of each test file below ``folder``, which is ``name_in_guest`` there."""
    from _pytest.assertion import rewrite as by_pytest

    for path in sorted({path for pattern in _TEST_FILES for path in folder.rglob(pattern)}):
        name = f"{name_in_guest}/{path.relative_to(folder)}"
        source = path.read_bytes()
        try:
            # pytest identifies a source by its hash; before 9.2 by its time and size.
            stamp, _ = by_pytest._rewrite_test(path, None)  # type: ignore[arg-type]
            tree = ast.parse(source, name)
            by_pytest.rewrite_asserts(tree, source, name)
            code = compile(tree, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        kept = by_pytest.get_cache_dir(path) / f"{path.stem}{by_pytest.PYC_TAIL}"
        kept.parent.mkdir(exist_ok=True)
        with kept.open("wb") as file:
            by_pytest._write_pyc_fp(file, stamp, code)


if __name__ == "__main__":
    packages, folder, name_in_guest = sys.argv[1:]
    sys.path.append(packages)
    rewrite(Path(folder), name_in_guest)
