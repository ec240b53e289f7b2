# SPDX-License-Identifier: Apache-2.0
"""The tutorial's blocks, put together, are the files of examples/checksum."""

from __future__ import annotations

import pytest

from tests.unit.docs.tutorial import EXAMPLE, TITLES, files


def code(text: str) -> list[str]:
    """Return its lines without empty ones and without the line of the licence."""
    return [line for line in text.splitlines() if line and "SPDX-License-Identifier" not in line]


def test_titles_are_the_files_of_the_example() -> None:
    found = {
        str(path.relative_to(EXAMPLE))
        for path in EXAMPLE.rglob("*")
        if path.is_file() and not {"build", "__pycache__"} & set(path.parts)
    }
    assert found == set(TITLES)


@pytest.mark.parametrize("title", TITLES)
def test_blocks_are_the_file(title: str) -> None:
    assert code(files()[title]) == code((EXAMPLE / title).read_text())


@pytest.mark.parametrize("title", [title for title in TITLES if title.endswith(".py")])
def test_blocks_compile(title: str) -> None:
    compile(files()[title], title, "exec")
