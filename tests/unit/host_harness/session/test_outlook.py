# SPDX-License-Identifier: Apache-2.0
"""The outlook on the next run: from the keys of the states that the cache has."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import build_cache, payload
from dma_rehearsal.host_harness.environment.build_cache import BOOTED, COLLECTED, Kind
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.session import guest_states, outlook
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_states import Start, StartKind
from tests.unit.host_harness import images

QEMU = Qemu(("qemu",), "11.1", "test")
ENTRY = Path("/cache/image/0123456789abcdef")
IMAGE = images.image(ENTRY)

pytestmark = pytest.mark.usefixtures("cache_root")


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digest of the files of guest/, which a test may change."""
    found = ["as they were"]
    monkeypatch.setattr(payload, "digest", lambda _tree, _tests, *_: found[0])
    return found


def start(**given: str) -> Start:
    return outlook.next_start(run_options.parse(given), QEMU, IMAGE, "tcg")


def save(kind: Kind, key: dict[str, Any]) -> Path:
    def build(staging: Path) -> dict[str, Any]:
        (staging / "ram").write_bytes(bytes(10_000))
        return {}

    path = build_cache.offer(kind, key, build)
    assert path
    return path


def save_both() -> Path:
    options = run_options.parse({})
    booted = guest_states.booted_key(QEMU, IMAGE, "tcg", options, isolated=True)
    save(BOOTED, booted)
    request = Request.of(options, GuestTests(), run_options.KIND, ("-o", "markers=x"))
    return save(COLLECTED, guest_states.collected_key(booted, "as they were", request, options))


def test_without_a_state_a_run_boots() -> None:
    assert start().kind is StartKind.COLD
    assert "no saved state fits" in start().reason
    assert outlook.saved_states() == outlook.SavedStates(0, 0, 0, 0.0)


def test_collected_then_booted_then_cold(files: list[str]) -> None:
    collected = save_both()
    assert start() == Start(StartKind.COLLECTED)
    assert start(state="booted").kind is StartKind.BOOTED
    files[0] = "edited"
    assert start().kind is StartKind.BOOTED
    assert "as it is now" in start().reason
    files[0] = "as they were"
    build_cache.release()
    (collected / "manifest.json").write_text("{")
    assert start().kind is StartKind.BOOTED, "a damaged state is not used"


@pytest.mark.parametrize(
    "given",
    [{"profile": "nvme"}, {"place": "hostile"}, {"deadline": "test=5"}, {"coherent": "no"}],
    ids=str,
)
def test_options_that_collect_again(given: dict[str, str]) -> None:
    save_both()
    assert start(**given).kind is StartKind.BOOTED
    assert start(seed="5", order="shuffled", vms="2").kind is StartKind.COLLECTED


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"state": "no"}, "STATE=no"),
        ({"boot": "bzimage"}, "BOOT=bzimage"),
        ({"iommu": "intel"}, "no saved state fits"),
    ],
)
def test_options_that_boot(given: dict[str, str], reason: str) -> None:
    save_both()
    assert start(**given).kind is StartKind.COLD
    assert reason in start(**given).reason


CARD = "tests.vm.functions.copy_card:CopyCard"


def test_the_functions_of_an_endpoint_are_asked_for() -> None:
    options = run_options.parse({"endpoint": CARD})
    functions = tuple(PluggedFunction(0, number, Path()) for number in (0, 3))
    save(BOOTED, guest_states.booted_key(QEMU, IMAGE, "tcg", options, functions, isolated=True))
    assert start(endpoint=CARD).kind is StartKind.BOOTED
    assert start(endpoint=f"{CARD},tests.vm.functions.copy_card:Beside").kind is StartKind.COLD


def test_an_endpoint_that_cannot_be_served() -> None:
    with pytest.raises(UsageError, match=r"copy_card.*Nothing"):
        start(endpoint="tests.vm.functions.copy_card:Nothing")


def test_states_are_counted_with_size_and_age() -> None:
    newest = save_both()
    save(BOOTED, {"another": "machine"})
    build_cache.release()
    for kind in (BOOTED, COLLECTED):
        for path in build_cache.entries(kind):
            hours = 2 if path == newest else 5
            then = time.time() - hours * 3600
            os.utime(path / "manifest.json", (then, then))
    found = outlook.saved_states()
    assert (found.booted, found.collected) == (2, 1)
    assert found.size >= 3 * 10_000
    assert 2 * 3600 <= found.unused_s < 3 * 3600
