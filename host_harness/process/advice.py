# SPDX-License-Identifier: Apache-2.0
"""The commands that messages advise: make's targets in a checkout, else those of the package."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

# In a checkout the folder that has host_harness/ also has the Makefile; in a package it has not.
_MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def in_checkout() -> bool:
    """Return whether this code runs from a checkout, and not from an installed package."""
    return _MAKEFILE.is_file()


def command(name: str) -> str:
    """Return the command line for a subcommand that is also a target of make, as clean-cache."""
    return f"make {name}" if in_checkout() else f"dma-rehearsal {name}"


def packages() -> str:
    """Return the advice that gives Python the packages which this project needs."""
    if in_checkout():
        return "make setup"
    return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall dma-rehearsal"


def attach(folder: Path) -> str:
    """Return the command line for one more shell in the VM of a run's folder."""
    name = shlex.quote(str(folder))
    return f"make shell ATTACH={name}" if in_checkout() else f"dma-rehearsal shell --attach {name}"


def order(seed: int, sample: int) -> str:
    """Return the command line that compares the orders again, with the same tests alone."""
    if in_checkout():
        return f"make test-order SEED={seed} N={sample}"
    return f"SEED={seed} dma-rehearsal order --sample {sample}"
