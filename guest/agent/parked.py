# SPDX-License-Identifier: Apache-2.0
"""The parked agent: ready to be saved, with pytest imported and none of the code under test.

A guest that is restored from here gets the sources of its run by messages, so one saved state
serves every edit. Only the boot files are in its memory; the host names them in ``BOOT_FILES``
(``host_harness/environment/payload.py``), and an edit of one of them makes a state of its own.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from typing import Final

from dma_rehearsal.device.layout.result_frames import PROTOCOL, Message
from dma_rehearsal.guest.agent import saved_state
from dma_rehearsal.guest.agent.channel import Channel, ChannelError
from dma_rehearsal.guest.agent.payload_files import PayloadFiles

NEUTRAL: Final = ("pytest",)
"""Modules that every session needs and that an edit of this project does not change."""


def import_neutral() -> None:
    """Import `NEUTRAL`: seconds under emulation, which a restored guest saves."""
    for name in NEUTRAL:
        importlib.import_module(name)


def run(channel: Channel, serve: Callable[[Channel], int]) -> int:
    """Park, then ``serve``; return an exit status. What goes wrong here is told to the host."""
    try:
        if not park(channel):
            return 0
    except Exception:
        channel.send({"type": "error", "text": traceback.format_exc()})
        return 1
    return serve(channel)


def park(channel: Channel) -> bool:
    """Serve the host until it says "go"; return False when it says "shutdown".

    ChannelError, ValueError, OSError or AttachFailed when a request is wrong or fails.
    """
    channel.send({"type": "parked", "protocol": PROTOCOL})
    files = PayloadFiles()
    while (message := channel.receive())["type"] not in ("go", "shutdown"):
        channel.send(_answer(files, message))
    if message["type"] == "shutdown":
        channel.send({"type": "bye"})
        return False
    # What was looked for before the files came may be there now.
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    return True


def _answer(files: PayloadFiles, message: Message) -> Message:
    if message["type"] == "files":
        return files.take(message)
    if (reply := saved_state.handle(message)) is None:
        raise ChannelError(f"the host sent {message['type']} to a parked agent")
    return reply
