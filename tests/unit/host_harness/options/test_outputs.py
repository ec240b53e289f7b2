# SPDX-License-Identifier: Apache-2.0
"""OUTPUT: formats, each with a place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.outputs import Output, parse
from dma_rehearsal.host_harness.options.replay import Replay
from dma_rehearsal.host_harness.process.errors import UsageError


def test_several_with_and_without_paths() -> None:
    assert parse("") == ()
    assert parse("ktap=a b/r.ktap,lava,github-summary,junit=r.xml") == (
        Output("ktap", "a b/r.ktap"),
        Output("lava", "-"),
        Output("github-summary", "$GITHUB_STEP_SUMMARY"),
        Output("junit", "r.xml"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("xml=a", "'xml' is not a format"),
        ("ktap=a,b", "'b' is not a format.*(?s:.*)cannot have a ','"),
        ("ktap", "ktap needs a path"),
        ("lava=", "lava needs a path"),
        ("ktap=a,tap=a", "two formats would go to a"),
        ("lava,github-annotations", "two formats would go to -"),
    ],
)
def test_what_is_wrong_is_told(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_a_replay_does_not_write_them_again() -> None:
    options = run_options.parse({"output": "ktap=a", "seed": "1"})
    assert options.outputs == (Output("ktap", "a"),)
    command = Replay(["run"], [], Path("/x")).command(options, ["a.py::t"])
    assert command == "cd /x && SEED=1 run a.py::t"
