# SPDX-License-Identifier: Apache-2.0
"""The screen of a stream: sizes, colours and live lines, as users and their terminals say."""

from __future__ import annotations

import io
import os
import sys

import pexpect
import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.screen import HEIGHT, WIDTH, Screen

NAMES = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_elsewhere_than_on_a_terminal() -> None:
    assert Screen.of(io.StringIO()) == Screen(WIDTH, HEIGHT, colours=False, live=False)


@pytest.mark.parametrize(
    ("settings", "terminal", "colours"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": ""}, False, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
    ],
)
def test_colours(
    settings: dict[str, str], terminal: bool, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    assert Screen.of(stream).colours == colours
    assert not Screen.of(stream, colours=False).colours
    assert Screen.of(stream, colours=True).colours


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("200", 200), ("3", 40), ("9999", 240)])
def test_columns_of_the_environment(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Screen.of(io.StringIO()).width == width
    assert Screen.of(Terminal()).width == width


def test_lines_of_a_dumb_terminal_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Screen.of(Terminal()).live
    monkeypatch.setenv("TERM", "dumb")
    assert not Screen.of(Terminal()).live


@pytest.mark.parametrize("size", [(24, 60), (50, 111), (60, 200), (5, 20)])
def test_size_of_a_real_terminal(size: tuple[int, int]) -> None:
    script = (
        "from dma_rehearsal.host_harness.process.screen import Screen; found = Screen.of()\n"
        "print('size', found.height, found.width, found.live)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    child = pexpect.spawn(
        sys.executable,
        ["-c", script],
        cwd=str(SOURCE),
        dimensions=size,
        env={**environment, "TERM": "xterm"},
        encoding="utf-8",
        timeout=60,
    )
    child.expect(pexpect.EOF)
    child.close()
    assert f"size {max(24, size[0])} {max(40, size[1])} True\r\n" in (child.before or "")
