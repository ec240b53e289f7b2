# SPDX-License-Identifier: Apache-2.0
"""The test kit as a pytest plugin: fixtures, marks, and checks that every guest test gets.

The agent loads it by this name. A pytest on a board loads it with
``-p dma_rehearsal.guest.testkit.plugin``.
"""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.session import SETTINGS, SessionSettings
from dma_rehearsal.guest.testkit import (
    conditions,
    every_failure,
    fixtures,
    host_witness,
    marks,
    transfer_checks,
)


def pytest_configure(config: pytest.Config) -> None:
    """Take the session's settings (the defaults without an agent), and register the parts."""
    _place(config.stash.setdefault(SETTINGS, SessionSettings()))
    for part in fixtures, transfer_checks, marks, host_witness, conditions, every_failure:
        config.pluginmanager.register(part, part.__name__)


@pytest.hookimpl(optionalhook=True)  # declared by the agent, which a board does without
def pytest_session_reseeded(config: pytest.Config) -> None:
    """Place buffers as a session that was configured with this seed does."""
    _place(config.stash[SETTINGS])


def _place(settings: SessionSettings) -> None:
    if settings.place is not None:
        dma_platform.placement = placement.named(settings.place, settings.seed)
