# SPDX-License-Identifier: Apache-2.0
"""make reads every option of a run, and no word that it does not know passes in silence."""

from __future__ import annotations

import re
import subprocess

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from tests.runs import clean_environment


def make(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**settings)
    for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"):  # of a make that runs the tests
        environment.pop(name, None)
    return subprocess.run(
        ["make", *words],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("FAULTS=x", "write FAULT="),
        ("TEST=x", "write TESTS="),
        ("ENDPOINTS=x", "write ENDPOINT="),
        ("PROFILES=x", "write PROFILE="),
        ("COLOUR=red", "make help lists what there is"),
    ],
)
def test_variable_that_nothing_reads_is_refused(word: str, hint: str) -> None:
    done = make("help", word)
    assert done.returncode == 2
    assert f"nothing reads {word.partition('=')[0]}" in done.stderr
    assert hint in done.stderr


def test_variables_that_are_read_pass() -> None:
    assert make("help", *(f"{option.variable}=x" for option in OPTIONS)).returncode == 0
    assert make("-j2", "-s", "help", "N=3", "ARGS=-k x").returncode == 0
    # make ignores other variables of the environment.
    assert make("help", COLOUR="red").returncode == 0


def test_every_option_reaches_the_harness_and_is_listed() -> None:
    text = (SOURCE / "Makefile").read_text().replace("\\\n", " ")
    (exported,) = re.findall(r"^export (.*)$", text, re.M)
    assert {option.variable for option in OPTIONS} <= set(exported.split())
    listed = make("help").stdout
    for option in OPTIONS:
        assert f"{option.variable}=" in listed
