"""VERSION: what the client proposes, and what this server answers."""

from __future__ import annotations

import errno
import json
import struct
from dataclasses import dataclass

from . import messages as wire
from .errors import RemoteProtocolError

VERSION = struct.Struct("<HH")
MAJOR, MINOR = 0, 0
# QEMU quirk: its buffer for this reply is as long as its own request: 194 bytes of JSON with the
# NUL. A max_msg_fds above its own 16 is "malformed" to it.
CAPABILITIES = json.dumps(
    {
        "capabilities": {
            "max_msg_fds": wire.MAX_FDS,
            "max_data_xfer_size": wire.MAX_DATA_XFER,
            "pgsizes": wire.PAGE_SIZE,
            "write_multiple": True,
        }
    },
    separators=(",", ":"),
).encode() + b"\0"  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What the client takes in one message; the specification's values where it says nothing."""

    max_fds: int = 1
    max_data: int = wire.MAX_DATA_XFER


def negotiate(payload: bytes) -> tuple[Limits, bytes]:
    """Return the client's limits and the reply's payload.

    RemoteProtocolError: ENOTSUP for a major version that is not 0, EINVAL for what is malformed.
    """
    if len(payload) < VERSION.size:
        raise RemoteProtocolError("VERSION is cut short")
    major, minor = VERSION.unpack_from(payload)
    if major != MAJOR:
        raise RemoteProtocolError(f"version {major}.{minor} is not spoken here", errno.ENOTSUP)
    text = payload[VERSION.size :]
    limits = _limits(text) if text else Limits()
    return limits, VERSION.pack(MAJOR, min(minor, MINOR)) + CAPABILITIES


def _limits(text: bytes) -> Limits:
    if not text.endswith(b"\0"):
        raise RemoteProtocolError("VERSION: the capabilities do not end with NUL")
    try:
        loaded = json.loads(text[:-1] or b"{}")
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"VERSION: the capabilities are no JSON: {error}") from error
    capabilities = loaded.get("capabilities", {}) if isinstance(loaded, dict) else None
    if not isinstance(capabilities, dict):
        raise RemoteProtocolError("VERSION: the capabilities are no object")
    return Limits(
        _number(capabilities, "max_msg_fds", 0, Limits().max_fds),
        _number(capabilities, "max_data_xfer_size", 1, Limits().max_data),
    )


def _number(capabilities: dict[str, object], name: str, least: int, default: int) -> int:
    value = capabilities.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RemoteProtocolError(f"VERSION: {name} is {value!r}")
    return value
