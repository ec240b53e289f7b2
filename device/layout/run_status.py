# SPDX-License-Identifier: Apache-2.0
"""How a run ends: the harness's exit status (docs/statuses.md), which a fault names, too."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses of ``python -m dma_rehearsal.host_harness``."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    NO_VERDICT = 4
