"""Hostile streams and hostile memory: every target of ``fuzz.py``, for a while.

Hypothesis looks for small failures; the fixed inputs of the fuzzer give the number. ``make fuzz``
goes on for as long as it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vfio_user import fuzz, fuzzer

# 21,000 in all; one of the exerciser's is some hundred messages.
EXAMPLES = dict.fromkeys(fuzz.TARGETS, 4000) | {"any_exerciser": 1000}
LIMITS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """What is refused is logged; here everything is."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:granted")


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_many(target: str) -> None:
    before = mappings()
    fuzzer.examples(fuzz.TARGETS[target], EXAMPLES[target], seed=1)
    assert mappings() == before, "mappings leak"


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_small(target: str) -> None:
    LIMITS(given(st.binary(max_size=200))(fuzz.TARGETS[target]))()


def test_the_fuzzer_finds_what_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hidden(data: bytes) -> None:
        fuzz.any_bytes(data)
        if data[:1] == b"\x01":
            raise ValueError("found")

    monkeypatch.setitem(fuzz.TARGETS, "hidden", hidden)
    monkeypatch.setattr(fuzzer, "CORPUS", tmp_path)
    assert fuzzer.fuzz("hidden", 20) == 1
    (crash,) = (tmp_path / "hidden").glob("crash-*")
    assert str(crash) in capsys.readouterr().out
    with pytest.raises(ValueError, match="found"):
        fuzzer.main(["--replay", str(crash)])
