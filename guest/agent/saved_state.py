# SPDX-License-Identifier: Apache-2.0
"""The host's requests around a saved machine state: "detach" before it, "resume" after it.

A guest may be saved while its agent is parked (`parked`), between two sessions, and in a session
whose tests are collected. `main` documents the messages. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import time
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.guest.agent import pci_functions, shells

PARAMETERS: Final = Path("/run/dma-rehearsal/parameters")
"""The parameters of the run, on one line; ``guest/linux/kernel_cmdline.py`` reads them."""

_PARAMETERS_MAX: Final = 1000
_PARAMETER_MAX: Final = 2048  # characters; Linux for x86, COMMAND_LINE_SIZE
_ENTROPY_MAX: Final = 512  # bytes
_CLOCK_MAX: Final = 1 << 33  # seconds since 1970
_RANDOM: Final = Path("/dev/random")
# Linux, include/uapi/linux/random.h: both ioctls, and struct rand_pool_info's two numbers
_RNDADDENTROPY: Final = 0x40085203
_RNDRESEEDCRNG: Final = 0x5207
_POOL_INFO: Final = struct.Struct("=ii")  # bits of entropy, bytes that follow


def handle(message: Message) -> Message | None:
    """Return the reply to a request, or None when it is not a request of this kind.

    ValueError for a malformed one; OSError or AttachFailed when it fails.
    """
    if message["type"] == "detach":
        refused = pci_functions.detach()
        return {"type": "detached", **({"refused": refused} if refused else {})}
    if message["type"] == "resume":
        return _resume(message)
    return None


def _resume(message: Message) -> Message:
    """Give this guest what it cannot have from the state: time, randomness, the run's words."""
    parameters = _parameters(message.get("parameters", []))
    count = _integer(message, "shells", 0, shells.SHELLS_MAX)
    entropy = _entropy(message.get("entropy"))
    clock = _clock(message.get("clock"))
    seed = None if message.get("seed") is None else _integer(message, "seed")
    attach = message.get("attach", False)
    if not isinstance(attach, bool):
        raise ValueError(f"resume: attach is {attach!r:.100}, not true or false")
    if clock is not None:
        time.clock_settime(time.CLOCK_REALTIME, clock)
    if entropy:
        add_entropy(entropy)
    if seed is not None:
        random.seed(seed)
    PARAMETERS.parent.mkdir(parents=True, exist_ok=True)
    PARAMETERS.write_text(" ".join(parameters) + "\n")
    found = pci_functions.attach() if attach else []
    shells.start(count)
    return {"type": "resumed", "functions": found}


def add_entropy(data: bytes) -> None:
    """Credit ``data`` to the kernel's random numbers, and have them begin anew from it.

    All guests of one state would otherwise draw the same numbers.
    """
    descriptor = os.open(_RANDOM, os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, _POOL_INFO.pack(8 * len(data), len(data)) + data)
        fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
    finally:
        os.close(descriptor)


def _parameters(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > _PARAMETERS_MAX:
        raise ValueError(f"resume: the parameters are {value!r:.100}, not a list of words")
    for word in value:
        usable = isinstance(word, str) and word.isprintable() and 0 < len(word) <= _PARAMETER_MAX
        if not usable or " " in word:
            raise ValueError(f"resume: the parameter {word!r:.100} is not a word")
    return value


def _integer(message: Message, key: str, least: int | None = None, most: int | None = None) -> int:
    value = message.get(key, 0)
    if type(value) is not int:
        raise ValueError(f"resume: {key} is {value!r:.100}, not an integer")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"resume: {key} is {value}, not {least} to {most}")
    return value


def _entropy(value: object) -> bytes:
    if value is None:
        return b""
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if not 0 < len(data) <= _ENTROPY_MAX:
        raise ValueError(
            f"resume: the entropy is not 1 to {_ENTROPY_MAX} bytes in hexadecimal digits"
        )
    return data


def _clock(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < float(str(value)) < _CLOCK_MAX:
        raise ValueError(f"resume: the clock is {value!r:.100}, not a time in seconds")
    return float(str(value))
