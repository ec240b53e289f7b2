# SPDX-License-Identifier: Apache-2.0
"""The same comparison as a state machine: Hypothesis chooses every number, and shrinks."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.generated import examples
from tests.unit.device.cache_model.cache_sequences import Pair, Steps, setting


class CacheMachine(RuleBasedStateMachine):
    """One cache, and what drivers, devices and CPUs do to it in any order."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self._data = data
        chosen = setting(self._choose)
        self._pair = Pair(chosen)
        self._steps = Steps(self._choose, chosen.line)
        for step in self._steps.first():
            self._pair.run(step)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self._data = data
        self._pair.run(self._steps.next())

    def _choose(self, n: int) -> int:
        return self._data.draw(st.integers(0, n - 1))


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=examples(150), stateful_step_count=25, deadline=None
)
