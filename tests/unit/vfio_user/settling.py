# SPDX-License-Identifier: Apache-2.0
"""Waits for what a server does when its client has gone."""

from __future__ import annotations

import time

from dma_rehearsal.device.exerciser.exerciser import Exerciser


def settled(exerciser: Exerciser) -> None:
    """Wait until the server has noticed that the client is gone."""
    deadline = time.monotonic() + 10
    while exerciser.bus.client is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
