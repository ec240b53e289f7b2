# SPDX-License-Identifier: Apache-2.0
"""Tables: cells are cut and never read as markup; colours are for terminals alone."""

from __future__ import annotations

import subprocess
import sys

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import table

STYLES = {"kept": "green", "broken": "red"}


def test_columns_are_as_wide_as_their_longest_cells() -> None:
    assert table.lines(("name", "value"), [("a", "1"), ("longer", "")]) == [
        "name   | value",
        "--------------",
        "a      | 1",
        "longer |",
    ]


def test_long_cell_is_cut_to_its_width() -> None:
    _, _, row = table.lines(("name", "value"), [("123456", "7")], widths=(5, None))
    assert row == "1234… | 7"


def test_markup_of_a_guest_is_text() -> None:
    *_, row = table.lines(("name", "value"), [("[red]x[/]", ":smile:")])
    assert row == "[red]x[/] | :smile:"


def test_styles_colour_the_last_column_alone() -> None:
    plain = table.lines(("name", "value"), [("kept", "kept x2"), ("broken", "other")])
    assert not any("\x1b" in line for line in plain)
    *_, kept, other = table.lines(
        ("name", "value"), [("kept", "kept x2"), ("broken", "other")], styles=STYLES
    )
    assert kept.startswith("kept ")
    assert "\x1b[32mkept x2" in kept
    assert "\x1b" not in other


def test_a_table_after_the_preload_imports_nothing_more() -> None:
    script = (
        "import sys\n"
        "from dma_rehearsal.host_harness.process import table\n"
        "assert not any(name.startswith('rich') for name in sys.modules)\n"
        "table.preload()\n"
        "before = set(sys.modules)\n"
        "table.lines(('name', 'value'), [('a', '1')], styles={'1': 'red'})\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("\n", "")
