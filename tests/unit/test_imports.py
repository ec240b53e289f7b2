# SPDX-License-Identifier: Apache-2.0
"""Tests import no tests: what two of them share is in a module of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE

TESTS = SOURCE / "tests"


def imported(source: str) -> Iterator[str]:
    """Yield the modules of ``tests`` that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tests")


def of_tests(source: str) -> list[str]:
    """Return those that are modules of tests, or a conftest."""
    return [
        name
        for name in imported(source)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]


def test_no_module_imports_tests() -> None:
    found = {
        str(path.relative_to(SOURCE)): names
        for path in sorted(TESTS.rglob("*.py"))
        if (names := of_tests(path.read_text()))
    }
    assert found == {}, "move what is shared into a module without test_ in its name"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from tests.unit.test_stages import jobs", 1),
        ("from tests.unit import test_stages", 1),
        ("import tests.unit.test_stages", 1),
        ("from tests.unit.host_harness.conftest import run_within", 1),
        ("from tests.runs import run", 0),
        ("from tests_of_others.test_it import run", 0),
    ],
)
def test_an_import_of_tests_is_found(source: str, count: int) -> None:
    assert len(of_tests(source)) == count
