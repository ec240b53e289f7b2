# SPDX-License-Identifier: Apache-2.0
"""Takes the ELF kernel out of a bzImage: QEMU enters it by PVH, without the firmware's way."""

from __future__ import annotations

import bz2
import lzma
from pathlib import Path

from dma_rehearsal.host_harness.environment import host_tools
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_TIMEOUT_S = 120
# How each packing begins, and the program that unpacks it.
_PROGRAMS = {
    b"\x02\x21\x4c\x18": ["lz4", "-dc", "-q"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dc", "-q"],
    b"\xfd7zX": ["xz", "-dc", "-q"],
    b"\x1f\x8b\x08": ["gzip", "-dc", "-q"],
}
_GZIP = b"\x1f\x8b"
_BZIP2, _LZMA = b"BZh", b"\x5d\x00\x00"


def extract(bzimage: Path, target: Path) -> None:
    """Write the kernel that ``bzimage`` has packed to ``target``.

    The set-up header gives the payload's place (Linux, Documentation/arch/x86/boot.rst,
    payload_offset and payload_length). EnvironmentFailure when it is not a bzImage, or packed in
    another way.
    """
    image = bzimage.read_bytes()
    if image[0x202:0x206] != b"HdrS":
        raise EnvironmentFailure(f"{bzimage} is not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    packed = image[offset : offset + length]
    # Except with gzip, the payload ends with its unpacked size, which is not part of the archive.
    data = packed if packed.startswith(_GZIP) else packed[:-4]
    if packed.startswith(_BZIP2):
        target.write_bytes(bz2.decompress(data))
    elif packed.startswith(_LZMA):
        target.write_bytes(lzma.decompress(data))
    for magic, command in _PROGRAMS.items():
        if packed.startswith(magic):
            with target.open("wb") as out:
                host_tools.run(command, input=data, stdout=out, timeout_s=_TIMEOUT_S)
    if not target.exists() or target.open("rb").read(4) != b"\x7fELF":
        raise EnvironmentFailure(
            f"the compression of {bzimage} is not known",
            "configure the kernel with one of KERNEL_GZIP, KERNEL_XZ, KERNEL_ZSTD, KERNEL_LZ4, "
            "KERNEL_BZIP2 and KERNEL_LZMA",
        )
