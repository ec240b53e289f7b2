# SPDX-License-Identifier: Apache-2.0
"""Tables: cells wrap and are never read as markup; colours are for terminals alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_long_cell_wraps_at_words_and_a_long_word_anywhere() -> None:
    assert table.lines(("name", "value"), [("two words", "7")], widths=(5, None))[2:] == [
        "two   | 7",
        "words |",
    ]
    assert table.lines(("name", "value"), [("123456", "7")], widths=(5, None))[2:] == [
        "12345 | 7",
        "6     |",
    ]


WIDE, COMBINED = (
    "缓冲区",
    "e\u0301te\u0301",
)  # three characters of two cells; three of one, two marks


@pytest.mark.parametrize("width", [20, 33, 60, 200])
def test_table_keeps_to_its_width_in_cells_of_a_terminal(width: int) -> None:
    rows = [(WIDE * 9, "a word " * 30), (f"{COMBINED} " * 9, WIDE), ("plain", "x" * 99)]
    lines = table.lines(("name", "value"), rows, width=width)
    assert max(map(table.cells, lines)) <= width
    flat = "".join("".join(lines).replace("|", "").split())
    assert flat.count("x") == 99, "nothing is left out"
    assert flat.count("\u0301") == 18
    assert flat.count("缓") == 10


def test_columns_of_wide_and_combined_characters_are_in_line() -> None:
    *_, wide, combined = table.lines(("name", "value"), [(WIDE, "1"), (COMBINED, "2")])
    assert (wide, combined) == (f"{WIDE} | 1", f"{COMBINED}    | 2")


def test_text_wraps_after_its_label() -> None:
    assert table.wrapped("one two three", 12, first="  why: ", rest="    ") == [
        "  why: one",
        "    two",
        "    three",
    ]
    assert table.wrapped("[red]x", 40) == ["[red]x"]
    assert table.wrapped("", 40, first="  x") == ["  x"]


def test_text_that_is_cut_says_so() -> None:
    assert table.cut("123456", 6) == "123456"
    assert table.cut("1234567", 6) == "12345…"
    assert table.cells(table.cut(WIDE * 5, 8)) <= 8


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
        "table.wrapped('a text', 4, style='red')\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("\n", "")
