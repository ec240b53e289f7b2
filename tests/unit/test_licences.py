# SPDX-License-Identifier: Apache-2.0
"""Each source file names its licence at the top; the kernel modules have one of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = "guest/driver/"
OF_THE_KERNEL = (".c", ".h", "Kbuild")  # all C is code of kernel modules


def sources() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    names = [name for name in listed if Path(name).suffix in (".py", ".sh", ".c", ".h")]
    names += [name for name in listed if Path(name).name in ("Makefile", "Kbuild")]
    return [name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size]


def licence_of(text: str) -> str:
    """Return what the first line says, or the second below a `#!` line; empty without it."""
    first, _, rest = text.partition("\n")
    line = rest.partition("\n")[0] if first.startswith("#!") else first
    _, found, licence = line.partition("SPDX-License-Identifier: ")
    return licence.removesuffix("*/").strip() if found else ""


def test_each_source_names_its_licence() -> None:
    wrong = {}
    for name in sources():
        licence = licence_of((ROOT / name).read_text())
        expected = "GPL-2.0-only" if name.endswith(OF_THE_KERNEL) else "Apache-2.0"
        if licence.removesuffix(" WITH Linux-syscall-note") != expected:
            wrong[name] = licence
    assert not wrong


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("# SPDX-License-Identifier: Apache-2.0\nimport os\n", "Apache-2.0"),
        ("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n", "Apache-2.0"),
        ("/* SPDX-License-Identifier: GPL-2.0-only */\n", "GPL-2.0-only"),
        ("import os\n# SPDX-License-Identifier: Apache-2.0\n", ""),
    ],
)
def test_where_the_line_is_looked_for(text: str, licence: str) -> None:
    assert licence_of(text) == licence


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("LICENSE", "Apache License\n                           Version 2.0"),
        (DRIVER + "LICENSE", "GNU GENERAL PUBLIC LICENSE\n                       Version 2"),
    ],
)
def test_texts_are_there(path: str, words: str) -> None:
    assert words in (ROOT / path).read_text()
