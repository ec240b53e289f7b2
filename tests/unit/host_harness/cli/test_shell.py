# SPDX-License-Identifier: Apache-2.0
"""Shells of VMs: which one is free, and where one ends."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import shell
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.errors import UsageError


def test_attaching_to_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no VM that has shells"):
        shell.attach(tmp_path)


def test_no_shell_is_taken_twice(tmp_path: Path) -> None:
    paths = [tmp_path / "shell0", tmp_path / "shell1"]
    with ExitStack() as stack:
        for path in paths:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen(4)
        facts = {"pid": 1, "gdb": None, "shells": list(map(str, paths))}
        (tmp_path / "vm.json").write_text(json.dumps(facts))
        found = shell._facts(tmp_path)
        peers = [
            stack.enter_context(shell._taken(found)).getpeername(),
            stack.enter_context(shell._taken(found)).getpeername(),
        ]
        assert peers == list(map(str, paths))
        with pytest.raises(UsageError, match="in use"), shell._taken(found):
            pass


def test_marks_end_is_found_wherever_it_is_cut() -> None:
    whole = b"logout\r\n" + shell.SHELL_ENDED
    for cut in range(len(whole) + 1):
        shown, held, ended = shell._until_end(whole[:cut])
        more, _, ended_later = shell._until_end(held + whole[cut:])
        assert (ended or ended_later, shown + (b"" if ended else more)) == (True, b"logout\r\n")
    assert shell._until_end(b"\x1b[0m text") == (b"\x1b[0m text", b"", False)


def test_both_sides_know_the_same_mark_and_key() -> None:
    source = (SOURCE / "guest" / "agent" / "shells.py").read_text()
    assert f"SHELL_ENDED: Final = {shell.SHELL_ENDED!r}".replace("'", '"') in source
    assert f"SIZE_KEY: Final = {shell.SIZE_KEY!r}".replace("'", '"') in source
