# SPDX-License-Identifier: Apache-2.0
"""The guest's agent: collects the tests, runs those that the host names, sends the reports.

    host: configure      guest: collected (or unusable: the arguments are wrong)
    host: run (one)      guest: start, report (setup, call, teardown; subtests), finish (warnings)
                         and in between what a test asks the host
    host: end            guest: ended
    host: shutdown       guest: bye

Before a session, within and after it the host may ask for what `host_requests` does. Each session
has a process of its own (`session_process`), so a named fault ends with its session.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
from functools import partial
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.result_frames import PROTOCOL
from dma_rehearsal.guest.agent import pytest_session, session_process
from dma_rehearsal.guest.agent.channel import Channel, ChannelError, find_port


def serve(channel: Channel) -> int:
    """Talk to the host until it asks for a shutdown; return an exit status."""
    channel.send(
        {
            "type": "hello",
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "pytest": pytest.__version__,
            "kernel": platform.release(),
        }
    )
    pytest_session.preload()
    try:
        while (message := pytest_session.next_request(channel))["type"] != "shutdown":
            if message["type"] != "configure":
                raise ChannelError(f"the host sent {message['type']} before configure")
            run = partial(pytest_session.run_session, channel, message)
            status = session_process.run(channel, run)
            if status != 0:
                return status  # the session told the host why
    except Exception:
        channel.send({"type": "error", "text": traceback.format_exc()})
        return 1
    channel.send({"type": "bye"})
    return 0


def main(arguments: list[str]) -> int:
    """Open the port and serve; return an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dma_rehearsal.guest.agent.main", description=__doc__
    )
    parser.add_argument("--port", type=Path, help="device to talk over (default: found by name)")
    options = parser.parse_args(arguments)
    descriptor = os.open(options.port or find_port(), os.O_RDWR | os.O_CLOEXEC)
    try:
        return serve(Channel(descriptor))
    except ChannelError as error:
        print(f"agent: {error}", file=sys.stderr)
        return 1
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
