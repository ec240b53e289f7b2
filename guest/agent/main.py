# SPDX-License-Identifier: Apache-2.0
"""The guest's agent: collects the tests, runs those that the host names, sends the reports.

    guest: parked        once the kernel's modules are loaded: nothing under test is imported yet
    host: files          guest: filed (or its "error"); only while it is parked
    host: detach         guest: detached (or "refused": a process holds a device)
    host: resume         guest: resumed
    host: go             guest: hello
    host: configure      guest: collected (or unusable: the arguments are wrong)
    host: run (one)      guest: start, report (setup, call, teardown; subtests), finish (warnings)
                         and in between what a test asks the host
    host: end            guest: ended
    host: shutdown       guest: bye; a parked guest, too

The host saves a guest that is parked, between sessions or whose tests are collected: it sends
detach, saves the machine's state, and sends resume, to this guest and to each that is restored.

    files    "remove": paths, of folders with all in them; "files": [path, mode, data in base64]
             each, and no data where the path ends in "/", a folder's. Paths are relative to
             /opt/dma-rehearsal. Bytecode of a source that changes goes, unless it came as well.
    detach   removes the PCI functions that are neither bridges nor QEMU's virtio; where a process
             has a file of one, or of the driver, open or mapped, it removes nothing. A parked guest
             first imports what only some sessions need.
    resume   "parameters": the rehearsal.* words of the run, for guest/linux/kernel_cmdline.py;
             "shells": the number of consoles with a login shell; "attach": scan the PCI buses, wait
             until what was removed is back. Optional: "clock", seconds since 1970; "entropy", in
             hexadecimal digits; "seed", of Python's random numbers and of the session.
    resumed  "functions": of a scan, each PCI function's address, ids, resources, interrupts and
             driver

A boot that was not restored gets resume and go, too. Before a session, within and after it the host
may ask for what `host_requests` does, and for detach and resume. An error of any request is a
message "error" with a traceback, and the agent ends. Each session has a process of its own
(`session_process`), so a named fault ends with its session.
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
