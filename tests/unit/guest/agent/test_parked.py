# SPDX-License-Identifier: Apache-2.0
"""The parked agent over a socket: its messages, and the modules that it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import BOOT_FILES, SOURCE

# Ends where the agent parks, and names the project's files that are in its memory then.
LOADED = """
import os, sys
from pathlib import Path
from dma_rehearsal.guest.agent import channel, init, parked

def park(channel, serve):
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "dma_rehearsal":
            print(os.path.relpath(os.path.realpath(module.__file__), sys.argv[1]))
    return 0

from dma_rehearsal.guest.linux import kernel_modules  # which the first process imports
os.setsid = lambda: None
channel.find_port = lambda: Path(os.devnull)
parked.run = park
init.GUEST_FOLDER = Path(sys.argv[1])
ready, tell = os.pipe()
os.write(tell, b"0")
sys.exit(init.run_agent(ready))
"""


def test_parked_agent_has_loaded_the_boot_files_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(SOURCE)],
        env={"PYTHONPATH": str(Path(__file__).parents[4]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The packages that a payload makes empty.
    empty = {"dma_rehearsal/__init__.py", "device/__init__.py"}
    assert set(done.stdout.split()) - empty == set(BOOT_FILES)
