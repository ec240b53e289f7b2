# SPDX-License-Identifier: Apache-2.0
"""Commands of the checkout, run by another program or as another user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import SOURCE

NOBODY = 65534


def run_within(
    wrapper: Sequence[str], command: Sequence[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` by a program such as unshare, in the checkout."""
    return subprocess.run(
        [*wrapper, *command],
        cwd=SOURCE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@dataclass(frozen=True)
class OrdinaryUser:
    """A user who is not root: a command's start that runs it so, and a folder of their own.

    ``python`` is one that they can run; the tests' own may lie where only root may look.
    """

    wrapper: list[str]
    folder: Path
    python: str
