# SPDX-License-Identifier: Apache-2.0
"""The cache model against its slow reference, over many generated sequences."""

from __future__ import annotations

import random

import pytest

from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.faults.cache_model import MODELS
from tests.generated import examples
from tests.unit.device.cache_model.cache_sequences import (
    Difference,
    Pair,
    Setting,
    Step,
    Steps,
    setting,
)

SEQUENCES = 12_000  # with the profile "full"
PARTS = 12
_STEPS = 12


def sequence(seed: int) -> tuple[Setting, list[Step]]:
    """Return the sequence of one number."""
    source = random.Random(seed)
    # Faster than randrange, and as even as these small numbers need.
    chosen = setting(lambda n: int(source.random() * n))
    steps = Steps(lambda n: int(source.random() * n), chosen.line)
    return chosen, steps.first() + [steps.next() for _ in range(_STEPS)]


def difference(chosen: Setting, steps: list[Step], model: MakeModel = CacheModel) -> str | None:
    """Run a sequence; return what the model and the reference disagree about."""
    pair = Pair(chosen, model)
    for step in steps:
        try:
            pair.run(step)
        except Difference as found:
            return str(found)
    return None


def shortest(chosen: Setting, steps: list[Step], model: MakeModel = CacheModel) -> str:
    """Return a report of a sequence that differs, without the steps that it does not need."""
    index = len(steps)
    while index:
        index -= 1
        fewer = steps[:index] + steps[index + 1 :]
        if difference(chosen, fewer, model) is not None:
            steps = fewer
    lines = [f"  {step}" for step in steps]
    return "\n".join([f"{chosen}", *lines, f"{difference(chosen, steps, model)}"])


@pytest.mark.parametrize("part", range(PARTS))
def test_the_model_is_its_reference(part: int) -> None:
    each = examples(SEQUENCES) // PARTS
    for seed in range(part * each, (part + 1) * each):
        chosen, steps = sequence(seed)
        if difference(chosen, steps) is not None:
            pytest.fail(f"sequence {seed}:\n{shortest(chosen, steps)}")


# Which of the first sequences differs at the latest, with each fault; long before the last.
_FOUND_WITHIN = 2000


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_fault_differs_from_the_reference(name: str) -> None:
    assert any(
        difference(*sequence(seed), MODELS[name]) is not None for seed in range(_FOUND_WITHIN)
    ), f"{name} looks like the sound model in {_FOUND_WITHIN} sequences"
