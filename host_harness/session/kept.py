# SPDX-License-Identifier: Apache-2.0
"""A VM that stays after its tests, so that somebody can look into it."""

from __future__ import annotations

import time

from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session.run import Rig
from dma_rehearsal.host_harness.session.run_folder import LIVE


def keep_until_told(rig: Rig) -> None:
    """Say how to enter the VM; return at Ctrl-C, when the guest ends, or at the phase's deadline.

    KeyboardInterrupt is the user's word to go on, and is not passed on.
    """
    vm, folder = rig.vm, rig.folder
    if vm is None or folder is None:
        return
    limit = vm.deadlines["kept"]
    rig.progress.note(
        f"the VM is kept, for {limit / 3600:g} hours at most (deadline of the phase 'kept').\n"
        f"  a shell in it:  dma-rehearsal shell --attach {folder}\n"
        f"                  (in a checkout: make shell ATTACH={folder})\n"
        f"  facts for gdb and other tools:  {folder / LIVE}\n"
        f"  Ctrl-C ends it",
        always=True,
    )
    deadline = time.monotonic() + limit
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            vm.poll("kept", remaining)
        rig.progress.note("the kept VM's time is over", always=True)
    except KeyboardInterrupt:
        rig.progress.note("the kept VM ends", always=True)
    except NoVerdict as error:
        rig.progress.note(str(error).splitlines()[0], always=True)
