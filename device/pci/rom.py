# SPDX-License-Identifier: Apache-2.0
"""The image of an expansion ROM (PCI Firmware 3.0, section 5.1)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import Identity

_SIGNATURE = b"\x55\xaa"
_POINTER = 0x18  # to the PCI Data Structure; both from the start of the image
_DATA_STRUCTURE = struct.Struct("<4sHHHHB3sHHBBH")
_DATA_START = 0x1C
_DATA_SIGNATURE = b"PCIR"
_REVISION = 3
_UNIT = 512
_NOT_CODE = 0xFF  # a reserved code type, which no firmware runs
_LAST_IMAGE = 0x80
_LEAST = 2048
MAX_IMAGE = 1 << 20


def size_of(image: bytes) -> int:
    """Return the bytes of the ROM that holds an image: a power of two of at least 2 KiB."""
    return max(_LEAST, 1 << (len(image) - 1).bit_length())


def check(name: str, image: bytes) -> None:
    """Raise ValueError, which begins with ``name``, for bytes in which nobody finds an image."""
    advice = "declare Rom.holding(data, identity), which gives data a header, or mend the image"
    if not 0 < len(image) <= MAX_IMAGE:
        raise ValueError(
            f"{name}: {len(image)} bytes; QEMU reads a ROM by one message, of 1 to {MAX_IMAGE}"
        )
    if image[:2] != _SIGNATURE:
        raise ValueError(f"{name}: an image begins with the bytes 55 aa; {advice}")
    start = int.from_bytes(image[_POINTER : _POINTER + 2], "little")
    if image[start : start + 4] != _DATA_SIGNATURE:
        raise ValueError(f'{name}: no PCI Data Structure, "PCIR", at {start:#x}; {advice}')


def image_of(data: bytes, identity: Identity) -> bytes:
    """Return an image that holds ``data``, which is not code, behind its header.

    ValueError for more than 1 MiB.
    """
    start = _DATA_START + _DATA_STRUCTURE.size
    units = -(-(start + len(data)) // _UNIT)
    structure = _DATA_STRUCTURE.pack(
        _DATA_SIGNATURE,
        identity.vendor_id,
        identity.device_id,
        0,  # no list of further devices
        _DATA_STRUCTURE.size,
        _REVISION,
        identity.class_code.to_bytes(3, "little"),
        units,
        0,  # the revision of the data
        _NOT_CODE,
        _LAST_IMAGE,
        0,
    )
    header = _SIGNATURE.ljust(_POINTER, b"\0") + _DATA_START.to_bytes(4, "little")
    image = (header + structure + data).ljust(units * _UNIT, b"\0")
    if len(image) > MAX_IMAGE:
        raise ValueError(f"{len(data)} bytes of data; an image has at most {MAX_IMAGE}")
    return image
