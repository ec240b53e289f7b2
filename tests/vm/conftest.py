# SPDX-License-Identifier: Apache-2.0
"""Marks each test of this folder ``vm``; the example project, and harnesses that tests end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.harness import Harness
from tests.vm.project import copy_of_the_example

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests, before any are deselected by their marks."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example project."""
    return copy_of_the_example(tmp_path)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    """Starts harnesses, and kills those that are left at the end."""
    started: list[Harness] = []

    def start(*arguments: str, **settings: str) -> Harness:
        started.append(Harness(tmp_path, *arguments, **settings))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
