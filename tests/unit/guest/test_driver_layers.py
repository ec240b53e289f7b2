# SPDX-License-Identifier: Apache-2.0
"""The layers of the kernel modules: a file calls those before it in Kbuild, never one after it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[3] / "guest"
HEADERS = {"driver": "dma_rehearsal.h", "dma_ops": "dro.h"}
_DECLARED = re.compile(r"^[a-z][\w \*]*?\b(dro?_\w+)\(", re.MULTILINE)
_SECTION = re.compile(r"^/\* ((?:dma_rehearsal|dro)_\w+)\.c: ", re.MULTILINE)
_OBJECT = re.compile(r"\b((?:dma_rehearsal|dro)_\w+)\.o\b")


def upward_calls(driver: Path) -> list[str]:
    """Return each use of a later file's function as "file: function of later file"."""
    _, _, listed = (driver / "Kbuild").read_text().partition("-y :=")
    layers = _OBJECT.findall(listed)
    assert {path.stem for path in driver.glob("*.c")} == set(layers)
    _, *parts = _SECTION.split((driver / HEADERS[driver.name]).read_text())
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
        for name in sorted(set(re.findall(r"\bdro?_\w+(?=\()", code))):
            if name in owners and layers.index(owners[name]) > layers.index(file):
                found.append(f"{file}: {name} of {owners[name]}")
    return found


@pytest.mark.parametrize("module", HEADERS)
def test_no_file_calls_a_later_one(module: str) -> None:
    assert upward_calls(GUEST / module) == []


@pytest.mark.parametrize(
    ("module", "file", "call", "owner"),
    [
        ("driver", "dma_rehearsal_zone", "dr_misc_device", "dma_rehearsal_misc"),
        ("driver", "dma_rehearsal_pin", "dr_kmap_pin", "dma_rehearsal_kmap"),
        ("driver", "dma_rehearsal_kmap", "dr_pin", "dma_rehearsal_pin_file"),
        ("dma_ops", "dro_tell", "dro_check_made", "dro_checks"),
        ("dma_ops", "dro_records", "dro_copy_free", "dro_copies"),
        ("dma_ops", "dro_mail", "dro_hook_init", "dro_hook"),
    ],
)
def test_a_call_of_a_later_file_is_found(
    module: str, file: str, call: str, owner: str, tmp_path: Path
) -> None:
    driver = shutil.copytree(GUEST / module, tmp_path / module)
    with (driver / f"{file}.c").open("a") as source:
        source.write(f"\nvoid dr_wrong(void)\n{{\n\t{call}(0);\n}}\n")
    assert upward_calls(driver) == [f"{file}: {call} of {owner}"]
