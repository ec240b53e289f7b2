# SPDX-License-Identifier: Apache-2.0
"""The number of generated examples of a test: all in ``make test-all``, a fifth in ``make test``.

Hypothesis has two profiles: ``fast``, which runs unless another is named, and ``full``.
``--hypothesis-profile=full`` names it to pytest, and HYPOTHESIS_PROFILE=full to whatever runs it.
"""

from __future__ import annotations

import os

from hypothesis import settings

_FULL = 100  # Hypothesis' own number of examples, to which all others are relative
_FAST = 20
_LEAST = 10


def register_profiles() -> None:
    """Make the two profiles known, and load the one that is named."""
    # An example takes as long as the machine's load makes it, so none has a deadline.
    settings.register_profile("full", deadline=None, max_examples=_FULL)
    settings.register_profile("fast", deadline=None, max_examples=_FAST)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def examples(full: int) -> int:
    """Return how many examples to run where the profile ``full`` runs this many."""
    of_the_profile: int = settings().max_examples
    return max(min(full, _LEAST), full * of_the_profile // _FULL)
