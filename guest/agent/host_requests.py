# SPDX-License-Identifier: Apache-2.0
"""The host's other requests to the agent: to run programs, to store files, to be saved."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.guest.agent import saved_state
from dma_rehearsal.guest.agent.channel import ChannelError

_OUTPUT_MAX = 4 << 20  # bytes of each stream; a frame holds 16 MiB


def handle(message: Message) -> Message | None:
    """Return the reply to a request, or None when it is not a request of this kind.

    ChannelError for a malformed one.
    """
    try:
        if message["type"] == "execute":
            return _execute(message)
        if message["type"] == "file":
            return _store(message)
        return saved_state.handle(message)
    except (KeyError, TypeError, ValueError) as error:
        raise ChannelError(f"the host asked for {message}: {error!r}") from error


def _execute(message: Message) -> Message:
    """Run ``argv`` for at most ``timeout`` seconds; its whole process group ends with it.

    Its output goes to files: a descendant that keeps them open makes nobody wait.
    """
    argv = [str(word) for word in message["argv"]]
    limit = float(message["timeout"])
    reply: Message = {"type": "executed", "status": None, "stdout": "", "stderr": ""}
    with (
        tempfile.TemporaryFile() as typed,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        typed.write(str(message.get("input", "")).encode())
        typed.seek(0)
        try:
            process = subprocess.Popen(
                argv, stdin=typed, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except (OSError, ValueError, IndexError) as error:
            return {**reply, "error": f"{argv} cannot be run: {error}"}
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            reply["error"] = f"{argv[0]} did not end within {limit:g} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        reply["status"] = process.wait()
        for name, file in (("stdout", stdout), ("stderr", stderr)):
            file.seek(max(0, file.seek(0, os.SEEK_END) - _OUTPUT_MAX))
            reply[name] = file.read().decode(errors="replace")
    return reply


def _store(message: Message) -> Message:
    """Write ``data`` (base64) to the absolute ``path``; without data the file goes."""
    path = Path(message["path"])
    if not path.is_absolute():
        raise ValueError("the path is not absolute")
    reply: Message = {"type": "stored", "path": str(path)}
    try:
        if message.get("data") is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written beside and renamed, so that an import sees the old or the new file.
            partial = path.with_name(f".{path.name}.part")
            partial.write_bytes(base64.b64decode(message["data"], validate=True))
            partial.chmod(int(message.get("mode", 0o644)))
            partial.replace(path)
    except OSError as error:
        reply["error"] = f"{path}: {error.strerror}"
    return reply
