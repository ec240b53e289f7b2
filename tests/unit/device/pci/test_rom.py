# SPDX-License-Identifier: Apache-2.0
"""The image of an expansion ROM, as Linux looks for it."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.endpoints.bars import Rom
from dma_rehearsal.device.pci import rom
from dma_rehearsal.device.pci.config import Identity

IDENTITY = Identity(0x1234, 0x5678, 0x0A0B0C)
HEADER = 0x34  # bytes before the data


@pytest.mark.parametrize(
    ("length", "units", "size"),
    [(0, 1, 2048), (512 - HEADER, 1, 2048), (513 - HEADER, 2, 2048), (4000, 8, 4096)],
)
def test_an_image_holds_its_data_in_whole_units(length: int, units: int, size: int) -> None:
    made = Rom.holding(b"d" * length, IDENTITY)
    image = made.image
    assert len(image) == units * 512
    assert image[HEADER:] == (b"d" * length).ljust(units * 512 - HEADER, b"\0")
    assert int.from_bytes(image[0x1C + 0x10 : 0x1C + 0x12], "little") == units
    assert made.size == size
    rom.check("Mine.rom", image)


def test_the_data_structure() -> None:
    """PCI Firmware 3.0, 5.1.2: signature, ids, class, the last image, and no code to run."""
    image = Rom.holding(b"", IDENTITY).image
    assert (image[:2], image[0x18:0x1A]) == (b"\x55\xaa", b"\x1c\0")
    structure = image[0x1C:0x34]
    assert structure[:8] == b"PCIR\x34\x12\x78\x56"
    assert structure[0x0A:0x10] == b"\x18\0\x03\x0c\x0b\x0a"
    assert structure[0x14:0x16] == b"\xff\x80", "firmware would run code type 0"


def test_the_largest_image() -> None:
    most = (1 << 20) - HEADER
    assert Rom.holding(bytes(most), IDENTITY).size == 1 << 20
    with pytest.raises(ValueError, match="1048525 bytes of data; an image has at most 1048576"):
        Rom.holding(bytes(most + 1), IDENTITY)
