# SPDX-License-Identifier: Apache-2.0
"""Hostile streams and hostile memory: each target of ``make fuzz``, with a number of examples.

Hypothesis looks for small failures; the fixed inputs of the fuzzer give the number.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.pci.config import Command, Identity
from tests.fuzz import fuzzer, targets
from tests.fuzz.exerciser_target import write
from tests.generated import examples
from tests.unit.vfio_user.endpoint import Reg

# 26,000 in all with the profile "full"; one of the models' is some hundred messages.
EXAMPLES = dict.fromkeys(targets.TARGETS, 1000) | {
    "any_mailbox": 2000,
    **dict.fromkeys(
        ("any_bytes", "any_commands", "any_replies", "any_capabilities", "any_ranges"), 4000
    ),
}
LIMITS = settings(
    max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Refusals are logged, and here everything is refused."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:granted")


@pytest.mark.parametrize("target", targets.TARGETS)
def test_many(target: str) -> None:
    before = mappings()
    fuzzer.examples(targets.TARGETS[target], examples(EXAMPLES[target]), seed=1)
    assert mappings() == before, "mappings leak"


@pytest.mark.parametrize("target", targets.TARGETS)
def test_small(target: str) -> None:
    LIMITS(given(st.binary(max_size=200))(targets.TARGETS[target]))()


class Slow(Endpoint):
    """Takes CPU time for a write of a register: long untraced, or long only when it is traced."""

    identity = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000)
    bars: ClassVar[Bars] = {0: RegisterBar([Register(Reg.GO, Access.RW)])}
    command_at_reset = Command.MEMORY_SPACE
    always = True

    def write_go(self, _value: int) -> None:
        """Go on until it is a hang."""
        if self.always or sys.gettrace() is not None:
            until = time.thread_time() + targets.HANG_S
            while time.thread_time() < until:
                pass


@pytest.mark.parametrize("always", [True, False])
def test_a_hang_is_found_and_what_tracing_makes_slow_is_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    always: bool,
) -> None:
    model = Slow()
    model.always = always

    def slow(data: bytes) -> None:
        with targets.peer(model) as made:
            made.negotiate()
            if data:
                write(made, 0, Reg.GO, 1)

    monkeypatch.setattr(targets, "HANG_S", 0.2)
    monkeypatch.setitem(targets.TARGETS, "slow", slow)
    monkeypatch.setattr(fuzzer, "CORPUS", tmp_path)
    assert fuzzer.fuzz("slow", 1) == always
    assert ("Hang" in capsys.readouterr().err) == always


def test_the_fuzzer_finds_what_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hidden(data: bytes) -> None:
        targets.any_bytes(data)
        if data[:1] == b"\x01":
            raise ValueError("found")

    monkeypatch.setitem(targets.TARGETS, "hidden", hidden)
    monkeypatch.setattr(fuzzer, "CORPUS", tmp_path)
    assert fuzzer.fuzz("hidden", 20) == 1
    (crash,) = (tmp_path / "hidden").glob("crash-*")
    assert str(crash) in capsys.readouterr().out
    with pytest.raises(ValueError, match="found"):
        fuzzer.main(["--replay", str(crash)])
