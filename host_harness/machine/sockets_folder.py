# SPDX-License-Identifier: Apache-2.0
"""The private folder of a VM's sockets, whose paths must be short (unix(7): 107 bytes)."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dma_rehearsal.host_harness.process import janitor
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_PREFIX = "dma-rehearsal-"
_PATH_SIZE = 107
_NAME_SIZE = len(f"/{_PREFIX}12345678/exerciser")


def make(stack: ExitStack) -> Path:
    """Make the folder; the end of ``stack`` removes it. EnvironmentFailure when none can be."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for base in filter(None, places):
        usable = os.access(base, os.W_OK | os.X_OK)
        if usable and len(os.fsencode(base)) + _NAME_SIZE <= _PATH_SIZE:
            folder = Path(base, _PREFIX + secrets.token_hex(4))
            stack.enter_context(janitor.guard_path(folder))
            folder.mkdir(0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder
    raise EnvironmentFailure(
        f"no folder can hold the sockets: {', '.join(filter(None, places))} cannot be written, "
        "or their names are too long",
        "set TMPDIR to a folder with a short name",
    )
