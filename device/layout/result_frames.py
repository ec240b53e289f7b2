# SPDX-License-Identifier: Apache-2.0
"""The frames of the result channel between the guest and the host, for both of its ends.

The channel is a virtio-serial port. A frame is a header and a payload. The header has four
little-endian fields: a magic number, the payload's length in bytes, a sequence number, and the
CRC-32 of the payload. The payload is one JSON object with a string "type". Each direction counts
its frames from 0. A receiver trusts nothing in a frame until these checks have passed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HEADER = struct.Struct("<4sIII")
MAGIC = b"DMR1"
MAX_PAYLOAD = 16 << 20  # bytes
PROTOCOL = 4  # the version of the messages; the guest's parked and hello state it
PORT_NAME = "org.dma-rehearsal.results"

Message = dict[str, Any]


class MessageTooLong(ValueError):
    """A message's payload is above MAX_PAYLOAD, so the peer would refuse its frame."""


class FrameError(Exception):
    """The stream cannot be trusted: wrong magic, length, sequence, checksum or JSON."""


def encode(
    message: Message, sequence: int, default: Callable[[object], object] | None = None
) -> bytes:
    """Return the frame of a message. ``default`` converts values for which JSON has no form.

    MessageTooLong for a payload above MAX_PAYLOAD; ValueError or TypeError, as `json.dumps` has
    them, for a value that JSON cannot represent.
    """
    payload = json.dumps(message, default=default).encode()
    if len(payload) > MAX_PAYLOAD:
        raise MessageTooLong(f"a message of {len(payload)} bytes, above {MAX_PAYLOAD}")
    return HEADER.pack(MAGIC, len(payload), sequence, zlib.crc32(payload)) + payload


@dataclass(frozen=True, slots=True)
class Header:
    """A frame's header that has been checked; ``length`` is the payload's, in bytes."""

    length: int
    sequence: int
    checksum: int

    @classmethod
    def parse(cls, data: bytes | bytearray, expected: int) -> Header:
        """Return the header at the start of ``data``, at least HEADER.size bytes.

        FrameError unless it has the magic, a length up to MAX_PAYLOAD and the ``expected`` number.
        """
        magic, length, sequence, checksum = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise FrameError(f"a frame starts with {magic!r}, not {MAGIC!r}")
        if length > MAX_PAYLOAD:
            raise FrameError(f"a frame announces {length} bytes, above {MAX_PAYLOAD}")
        if sequence != expected:
            raise FrameError(f"frame {expected} is missing: got frame {sequence}")
        return cls(length, sequence, checksum)

    def decode(self, payload: bytes) -> Message:
        """Return the message in this frame's payload, ``length`` bytes.

        FrameError when the checksum differs, or the payload is not an object with a type.
        """
        if zlib.crc32(payload) != self.checksum:
            raise FrameError(
                f"frame {self.sequence}: the checksum of its {self.length} bytes is wrong"
            )
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"frame {self.sequence} is not JSON: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise FrameError(f"frame {self.sequence} has no type")
        return message
