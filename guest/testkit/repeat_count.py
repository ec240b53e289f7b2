# SPDX-License-Identifier: Apache-2.0
"""How much a test that repeats does: little in every run, much when the run is a soak.

``rehearsal.soak=1`` on the kernel command line says which; ``make soak`` puts it there.
"""

from __future__ import annotations

from pathlib import Path

CMDLINE = Path("/proc/cmdline")


def of(usual: int, soak: int) -> int:
    """Return how often to repeat."""
    return soak if "rehearsal.soak=1" in CMDLINE.read_text().split() else usual
