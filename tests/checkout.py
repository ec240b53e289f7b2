# SPDX-License-Identifier: Apache-2.0
"""A scratch copy of the checkout, for what must not touch the user's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import SOURCE


def copy_to(folder: Path) -> Path:
    """Copy the files that git tracks, or would track, below ``folder``; return it.

    Edits that are not committed are in the copy. CalledProcessError outside of a git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=True).stdout
    for name in filter(None, said.split("\0")):
        file = SOURCE / name
        if file.is_symlink() or file.is_file():  # a file that git tracks may be removed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, folder / name, follow_symlinks=False)
    return folder
