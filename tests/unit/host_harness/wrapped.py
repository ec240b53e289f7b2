# SPDX-License-Identifier: Apache-2.0
"""Commands of the checkout, run by another program or as another user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import janitor

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


def namespaces(*kinds: str) -> list[str]:
    """Return the unshare command for namespaces, by root's right or a user namespace."""
    wrapper = ["unshare", *kinds]
    if os.geteuid() != 0:
        wrapper += ["--map-root-user"]
    done = run_within(wrapper, ["true"])
    if done.returncode != 0:
        pytest.skip(
            f"needs namespaces ({' '.join(kinds)}): {done.stderr.strip()}; run as root, or where "
            "user namespaces are allowed (sysctl user.max_user_namespaces)"
        )
    return wrapper


@dataclass(frozen=True)
class OrdinaryUser:
    """A user who is not root: a command's start that runs it so, and a folder of their own.

    ``python`` is one that they can run; the tests' own may lie where only root may look.
    """

    wrapper: list[str]
    folder: Path
    python: str


REASON_OF_WAY = (
    "from dma_rehearsal.host_harness.environment import driver_build as b; "
    "print(b.unavailable_reason(b.Way({way!r})))"
)
"""Python that prints why the driver cannot be built in a way, or None."""


@contextmanager
def ordinary_user(folder: Path) -> Iterator[OrdinaryUser]:
    """Yield the user who runs the tests, with ``folder``, or the user nobody for root."""
    if os.geteuid() != 0:
        yield OrdinaryUser([], folder, sys.executable)
        return
    # Root's rights last until the first exec, which is that of env.
    wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]
    pythons = (sys.executable, "/usr/bin/python3")
    script = "import dma_rehearsal.host_harness.environment.guest_image"
    usable = [each for each in pythons if run_within(wrapper, [each, "-c", script]).returncode == 0]
    if not usable:
        pytest.skip(
            f"an ordinary user cannot run {' or '.join(pythons)} in {SOURCE}: put the checkout "
            "and Python where all may read"
        )
    theirs = Path(tempfile.mkdtemp(prefix="dma-rehearsal-test-"))  # ``folder`` is root's alone
    os.chown(theirs, NOBODY, NOBODY)
    try:
        yield OrdinaryUser(wrapper, theirs, usable[0])
    finally:
        janitor.remove_tree(theirs)
