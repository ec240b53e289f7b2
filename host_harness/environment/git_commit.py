# SPDX-License-Identifier: Apache-2.0
"""The git commit of the folder that the tests come from, for those who compare runs."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

from dma_rehearsal.host_harness.process.children import child

# core.fsmonitor names a program of the checkout's, which nobody asked to run.
_COMMAND = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "describe"),
    *("--always", "--dirty", "--abbrev=64", "--exclude=*"),
)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?(?:-dirty)?")
_LIMIT_S = 5.0


class GitCommit:
    """Asks git in a process of its own, because the answer takes as long as a small boot step."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        """Start to ask about the checkout around ``folder``; the end of ``stack`` ends git."""
        self._found: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = stack.enter_context(child(_COMMAND, stdout=subprocess.PIPE, cwd=folder))
        except OSError:  # no git
            return
        if self._process.stdout:
            stack.callback(self._process.stdout.close)

    def found(self) -> str | None:
        """Return the commit, with "-dirty" when files differ from it; None outside a checkout."""
        if self._process:
            try:
                said = self._process.communicate(timeout=_LIMIT_S)[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                return None
            self._process = None
            if _COMMIT.fullmatch(said.strip()):
                self._found = said.strip()
        return self._found
