# SPDX-License-Identifier: Apache-2.0
"""VERSION: what the client proposes, and what this server answers.

The specification gives each capability a type. One of another type, or out of range, is refused
whether this server uses it or not; a name that the specification does not have says nothing.
"""

from __future__ import annotations

import errno
import json
import reprlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError

VERSION = struct.Struct("<HH")
MAJOR, MINOR = 0, 0
# QEMU quirk: its buffer for the reply is as long as its own request: 194 bytes of JSON with the
# NUL. A max_msg_fds above its own 16 is "malformed" to it.
CAPABILITIES: dict[str, int | bool] = {
    "max_msg_fds": wire.MAX_FDS,
    "max_data_xfer_size": wire.MAX_DATA_XFER,
    "pgsizes": wire.PAGE_SIZE,
    "write_multiple": True,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The client's limits for one message; the specification's values where it names none."""

    max_fds: int = 1
    max_data: int = wire.MAX_DATA_XFER


def negotiate(payload: bytes) -> tuple[Limits, bytes]:
    """Return the client's limits and the reply's payload.

    The reply names nothing that the client did not propose. RemoteProtocolError: ENOTSUP for a
    major version that is not 0, EINVAL for what is malformed.
    """
    if len(payload) < VERSION.size:
        raise RemoteProtocolError("VERSION is cut short")
    major, minor = VERSION.unpack_from(payload)
    if major != MAJOR:
        raise RemoteProtocolError(f"version {major}.{minor} is not supported", errno.ENOTSUP)
    proposed = _proposed(payload[VERSION.size :])
    limits = Limits(
        proposed.get("max_msg_fds", Limits().max_fds),
        proposed.get("max_data_xfer_size", Limits().max_data),
    )
    common = {
        name: value
        for name, value in CAPABILITIES.items()
        if proposed.get(name, False) is not False
    }
    text = json.dumps({"capabilities": common}, separators=(",", ":")).encode() + b"\0"
    return limits, VERSION.pack(MAJOR, min(minor, MINOR)) + text


def _proposed(text: bytes) -> dict[str, int]:
    """Return the capabilities that the client names and the specification knows, checked."""
    if not text:
        return {}
    if not text.endswith(b"\0"):
        raise RemoteProtocolError("VERSION: the capabilities do not end with NUL")
    try:
        loaded = json.loads(text[:-1] or b"{}")
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"VERSION: the capabilities are not JSON: {error}") from error
    capabilities = loaded.get("capabilities", {}) if isinstance(loaded, dict) else None
    return _checked(capabilities, _KNOWN, "the capabilities")


def _checked(
    value: object, known: dict[str, Callable[[str, object], int]], name: str
) -> dict[str, int]:
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"VERSION: {name} are not an object")
    return {each: check(each, value[each]) for each, check in known.items() if each in value}


def _shown(value: object) -> str:
    """Return a value for a log, which a client cannot fill by it: it may be long, or deep."""
    return reprlib.repr(value)


def _number(least: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RemoteProtocolError(
                f"VERSION: {name} is {_shown(value)}, not a number from {least} on"
            )
        return value

    return check


def _flag(name: str, value: object) -> int:
    if not isinstance(value, bool):
        raise RemoteProtocolError(f"VERSION: {name} is {_shown(value)}, neither true nor false")
    return value


def _page_sizes(name: str, value: object) -> int:
    """Check sizes or'ed together: one of them must be a whole number of our pages."""
    sizes = _number(1)(name, value)
    if sizes < wire.PAGE_SIZE:
        raise RemoteProtocolError(f"VERSION: {name} is {sizes}: no size from {wire.PAGE_SIZE} on")
    return sizes


def _page_size(name: str, value: object) -> int:
    size = _page_sizes(name, value)
    if size & (size - 1):
        raise RemoteProtocolError(f"VERSION: {name} is {_shown(size)}, which is not a power of two")
    return size


def _object(**known: Callable[[str, object], int]) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        _checked(value, known, name)
        return 1

    return check


# "migration" is of earlier revisions of the specification; QEMU and libvfio-user send it.
_KNOWN: dict[str, Callable[[str, object], int]] = {
    "max_msg_fds": _number(0),
    "max_data_xfer_size": _number(1),
    "max_dma_maps": _number(1),
    "pgsizes": _page_sizes,
    "write_multiple": _flag,
    "twin_socket": _object(supported=_flag),
    "migration": _object(pgsize=_page_size, max_bitmap_size=_number(0)),
}
