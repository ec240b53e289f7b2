# SPDX-License-Identifier: Apache-2.0
"""Runs the state machine of buffers for a number of steps, replayed by a seed.

It is apart from the tests, because it imports Hypothesis, which takes seconds.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine, providers
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from dma_rehearsal.guest.testkit.buffer_model import BufferMachine, Tally
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker

PROGRAM: Final = 60  # steps of one machine
SHRINK_S: Final = 30
ROUNDS: Final = 10


def run(bench: DmaChecker, start: int, steps: int) -> Tally:
    """Run machines until that many steps are done, and one DMA in 20 of them.

    ``start`` is the seed of the first round, which decides all rounds. An error of a step is
    raised, with the fewest steps found in half a minute as its notes. It stops after ten rounds
    in any case.
    """
    tally = Tally()
    # The steps come as notes. Its only other output warns of five minutes, wrongly here.
    with with_reporter(lambda _: None), pytest.MonkeyPatch.context() as patch:
        # It would parse every loaded module and draw numbers from them: that takes seconds under
        # emulation, and with other tests loaded the same seed would draw other steps.
        none = providers._local_constants
        patch.setattr(providers, providers._get_local_constants.__name__, lambda: none)
        # A test does not have five minutes.
        patch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINK_S)
        for number in range(ROUNDS):
            if tally.steps >= steps and tally.dmas > steps // 20:
                break
            left = max(steps - tally.steps, PROGRAM)
            # The first program of a round is the simplest one, which does almost nothing.
            _round(bench, tally, start + number, 1 + -(-left // PROGRAM))
    return tally


def _round(bench: DmaChecker, tally: Tally, start: int, programs: int) -> None:
    def begin() -> BufferMachine:
        return BufferMachine(bench, tally, protected=bench.platform.protection.enabled)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(start)(begin),
        settings=settings(
            max_examples=programs,
            stateful_step_count=PROGRAM,
            phases=(Phase.generate, Phase.shrink),
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            # Under emulation choosing alone takes longer than Hypothesis finds healthy.
            suppress_health_check=(HealthCheck.too_slow,),
        ),
    )
