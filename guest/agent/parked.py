# SPDX-License-Identifier: Apache-2.0
"""The parked agent: ready to be saved, with pytest imported and none of the code under test.

A guest that is restored from here gets the sources of its run by messages, so one saved state
serves every edit. Only the boot files are in its memory; the host names them in ``BOOT_FILES``
(``host_harness/environment/payload.py``), and an edit of one of them makes a state of its own.
"""

from __future__ import annotations

import gc
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Final

from dma_rehearsal.device.layout.result_frames import PROTOCOL, Message
from dma_rehearsal.guest.agent import saved_state
from dma_rehearsal.guest.agent.channel import Channel, ChannelError
from dma_rehearsal.guest.agent.payload_files import PayloadFiles

NEUTRAL: Final = (
    *("pytest", "asyncio", "ctypes", "mmap", "pdb", "pickle", "queue", "resource", "secrets"),
)
"""Modules that every session imports and that no edit of this project changes."""
NEUTRAL_OF_SOME: Final = ("hypothesis.stateful",)
"""More of them, which some tests import: they are in a saved state, and no boot waits for them."""


def import_neutral() -> None:
    """Import `NEUTRAL` and pytest's own plugins: seconds under emulation, once for all sessions."""
    _import(NEUTRAL)
    plugins = getattr(sys.modules["_pytest.config"], "default_plugins", ())
    _import(f"_pytest.{name}" for name in plugins)


def _import(names: Iterable[str]) -> None:
    """Import modules without looking for garbage, because they stay."""
    gc.disable()
    for name in names:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def run(channel: Channel, serve: Callable[[Channel], int]) -> int:
    """Park, then ``serve``; return an exit status. What goes wrong is told to the host."""
    try:
        try:
            if not park(channel):
                return 0
        except Exception:
            channel.send({"type": "error", "text": traceback.format_exc()})
            return 1
        return serve(channel)
    except ChannelError as error:
        print(f"agent: {error}", file=sys.stderr)
        return 1


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
    return True


def _answer(files: PayloadFiles, message: Message) -> Message:
    if message["type"] == "files":
        return files.take(message)
    if message["type"] == "detach":  # the guest is about to be saved
        _import(NEUTRAL_OF_SOME)
    if (reply := saved_state.handle(message)) is None:
        raise ChannelError(f"the host sent {message['type']} to a parked agent")
    return reply
