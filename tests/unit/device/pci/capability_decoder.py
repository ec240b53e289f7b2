# SPDX-License-Identifier: Apache-2.0
"""A decoder of configuration space, as lspci is one: it shares nothing with the models.

It knows offsets and bits by the specifications' tables, and reads only as a client does.
"""

from __future__ import annotations

import struct

from dma_rehearsal.device.endpoints.endpoint import Endpoint


class Decoder:
    """The capabilities of one function, by what it answers to reads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def _get(self, layout: str, offset: int) -> int:
        data = self._endpoint.region_read(7, offset, struct.calcsize(layout))
        value: int = struct.unpack(layout, data)[0]
        return value

    def dword(self, offset: int) -> int:
        """Return 32 bits."""
        return self._get("<I", offset)

    def word(self, offset: int) -> int:
        """Return 16 bits."""
        return self._get("<H", offset)

    def write(self, offset: int, value: int, size: int = 2) -> None:
        """Write as software does."""
        self._endpoint.region_write(7, offset, value.to_bytes(size, "little"))

    def standard(self) -> dict[int, int]:
        """Return the standard capabilities: places by id."""
        found: dict[int, int] = {}
        place = self._get("<B", 0x34)
        while place:
            found[self._get("<B", place)] = place
            place = self._get("<B", place + 1)
        return found

    def extended(self) -> dict[int, tuple[int, int]]:
        """Return the extended capabilities: place and version by id."""
        found: dict[int, tuple[int, int]] = {}
        place = 0x100
        while place and (header := self.dword(place)):
            found[header & 0xFFFF] = place, header >> 16 & 0xF
            place = header >> 20
        return found

    def text(self) -> list[str]:
        """Return a line for each extended capability, and one for Device Capabilities 2."""
        express = self.standard()[0x10]
        capabilities, control = self.dword(express + 0x24), self.word(express + 0x28)
        lines = [
            f"DevCap2: 32bit{_sign(capabilities, 7)} 64bit{_sign(capabilities, 8)} "
            f"128bitCAS{_sign(capabilities, 9)} LTR{_sign(capabilities, 11)}; "
            f"DevCtl2: AtomicOpsReqEn{_sign(control, 6)} LTR{_sign(control, 10)}"
        ]
        for identity, (place, version) in self.extended().items():
            decode = _DECODERS.get(identity)
            what = f"unknown {identity:#x}" if decode is None else decode(self, place)
            lines.append(f"[{place:x} v{version}] {what}")
        return lines


def _sign(value: int, bit: int) -> str:
    return "+" if value >> bit & 1 else "-"


def _serial_number(decoder: Decoder, place: int) -> str:
    number = decoder.dword(place + 4) | decoder.dword(place + 8) << 32
    return "Device Serial Number " + "-".join(f"{each:02x}" for each in number.to_bytes(8, "big"))


def _ltr(decoder: Decoder, place: int) -> str:
    snoop, no_snoop = (
        (value & 0x3FF) * 32 ** (value >> 10 & 7)
        for value in (decoder.word(place + 4), decoder.word(place + 6))
    )
    return f"LTR: max snoop {snoop}ns, max no snoop {no_snoop}ns"


def _acs(decoder: Decoder, place: int) -> str:
    names = [
        "SrcValid",
        "TransBlk",
        "ReqRedir",
        "CmpltRedir",
        "UpstreamFwd",
        "EgressCtrl",
        "DirectTrans",
    ]
    shown = [
        " ".join(f"{name}{_sign(value, bit)}" for bit, name in enumerate(names))
        for value in (decoder.word(place + 4), decoder.word(place + 6))
    ]
    return f"ACS: cap {shown[0]}; ctl {shown[1]}"


def _pri(decoder: Decoder, place: int) -> str:
    control, status = decoder.word(place + 4), decoder.word(place + 6)
    return (
        f"PRI: Enable{_sign(control, 0)} Reset{_sign(control, 1)} RF{_sign(status, 0)} "
        f"UPRGI{_sign(status, 1)} Stopped{_sign(status, 8)} PASID{_sign(status, 15)} "
        f"capacity {decoder.dword(place + 8)} allocation {decoder.dword(place + 12)}"
    )


_DECODERS = {0x03: _serial_number, 0x18: _ltr, 0x0D: _acs, 0x13: _pri}
