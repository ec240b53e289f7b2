# SPDX-License-Identifier: Apache-2.0
"""Run libvfio-user's sample client against our timer device: ``make interop CLIENT=...``

The client starts the destination of its migration itself, as ``server`` in its own folder, and does
so from the process that was started: the client's second half is that process's child. So this
makes a folder with the client and a ``server`` in it, which is this script, and which ends when the
client's second half ends, with its status.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from dma_rehearsal.device.vfio_user.server import VfioUserServer
from examples.timer import TimerDevice

DEADLINE_S = 60
ROOT = Path(__file__).parents[1]


def serve(path: Path) -> VfioUserServer:
    """Serve a timer device in a thread."""
    server = VfioUserServer(path, TimerDevice())
    server.listen()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def destination(path: Path) -> int:
    """Be the destination of the migration; return the status of the client, our child."""
    server = serve(path)
    _, status = os.waitpid(-1, 0)
    server.close()
    print(f"client: ended with status {os.waitstatus_to_exitcode(status)}", flush=True)
    return abs(os.waitstatus_to_exitcode(status))


def run(client: Path) -> int:
    """Run the client; return 0 when it came to its end."""
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        (folder / "client").symlink_to(client.resolve())
        script = folder / "server"
        command = shlex.join([sys.executable, "-m", "tests.interop", "--destination"])
        # -v comes first, then the socket.
        script.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))} && exec {command} "$2"\n')
        script.chmod(0o755)
        source = serve(folder / "source")
        try:
            done = subprocess.run(
                [folder / "client", folder / "source"], check=False, timeout=DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            print(f"the client did not end within {DEADLINE_S} s", file=sys.stderr)
            return 1
        finally:
            source.close()
    print(f"interop: {'complete' if done.returncode == 0 else 'FAILED'}")
    return int(done.returncode != 0)


def main(argv: list[str]) -> int:
    """Return the status for the shell."""
    if argv[:1] == ["--destination"] and len(argv) == 2:
        return destination(Path(argv[1]))
    if len(argv) != 1 or not os.access(argv[0], os.X_OK):
        print("usage: make interop CLIENT=<libvfio-user's samples/client>", file=sys.stderr)
        return 2
    return run(Path(argv[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
