# SPDX-License-Identifier: Apache-2.0
"""The kernel module's layers: a file calls those before it in Kbuild, never one after it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[3] / "guest" / "driver"
_DECLARED = re.compile(r"^[a-z][\w \*]*?\b(dr_\w+)\(", re.MULTILINE)
_SECTION = re.compile(r"^/\* (dma_rehearsal_\w+)\.c: ", re.MULTILINE)


def upward_calls(driver: Path) -> list[str]:
    """Return each use of a later file's function as "file: function of later file"."""
    layers = re.findall(r"\b(dma_rehearsal_\w+)\.o", (driver / "Kbuild").read_text())
    assert {path.stem for path in driver.glob("*.c")} == set(layers)
    _, *parts = _SECTION.split((driver / "dma_rehearsal.h").read_text())
    owners = {
        name: file
        for file, text in zip(parts[::2], parts[1::2], strict=True)
        for name in _DECLARED.findall(text)
    }
    assert [file for file in layers if file in parts] == parts[::2], "the header's order"
    found = []
    for file in layers:
        code = (driver / f"{file}.c").read_text()
        code = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
        for name in sorted(set(re.findall(r"\bdr_\w+(?=\()", code))):
            if name in owners and layers.index(owners[name]) > layers.index(file):
                found.append(f"{file}: {name} of {owners[name]}")
    return found


def test_no_file_calls_a_later_one() -> None:
    assert upward_calls(DRIVER) == []


@pytest.mark.parametrize(
    ("file", "call", "owner"),
    [
        ("dma_rehearsal_zone", "dr_misc_device", "dma_rehearsal_misc"),
        ("dma_rehearsal_pin", "dr_kmap_pin", "dma_rehearsal_kmap"),
        ("dma_rehearsal_kmap", "dr_pin", "dma_rehearsal_pin_file"),
    ],
)
def test_a_call_of_a_later_file_is_found(file: str, call: str, owner: str, tmp_path: Path) -> None:
    driver = shutil.copytree(DRIVER, tmp_path / "driver")
    with (driver / f"{file}.c").open("a") as source:
        source.write(f"\nvoid dr_wrong(void)\n{{\n\t{call}(0);\n}}\n")
    assert upward_calls(driver) == [f"{file}: {call} of {owner}"]
