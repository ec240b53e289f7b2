# SPDX-License-Identifier: Apache-2.0
"""Logs and lines of the guest, made safe for a terminal."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.process import plain_text


def test_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\n".join(b"line %d\xff" % i for i in range(50)) + b"\n\n")
    assert plain_text.tail(tmp_path / "log", 2) == ["line 48\ufffd", "line 49\ufffd"]
    assert plain_text.tail(tmp_path / "absent") == []


def test_escapes_of_a_guest_do_not_reach_the_terminal(tmp_path: Path) -> None:
    said = b"\x1b[31;1mred\x1b[0m \x1b]0;title\x07end\r\n\x1b[0m\n a\x08b\n"
    (tmp_path / "log").write_bytes(said)
    assert plain_text.tail(tmp_path / "log") == ["red end", " a b"]
    (tmp_path / "log").write_bytes(b"x" * (1 << 20) + b"\nlast\n")
    assert plain_text.tail(tmp_path / "log")[-1] == "last"


def test_lines_of_a_guest_keep_their_ends_and_indentation() -> None:
    said = "\tx = 1\n\x1b[31mE  assert\x1b[0m 1 \x07\n\n\u202eend\r"
    assert plain_text.printable_lines(said) == "        x = 1\nE  assert 1\n\n end"
    assert plain_text.printable_lines("é\n") == "é\n"


def test_values_of_a_guest_are_printable_at_any_depth() -> None:
    said = {"a": ["\x1b[2J", {"b": "\x9b2Jx"}], "n": 3, "none": None, "t": True}
    assert plain_text.printable_value(said) == {
        "a": ["", {"b": " 2Jx"}],
        "n": 3,
        "none": None,
        "t": True,
    }
