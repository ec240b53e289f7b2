# SPDX-License-Identifier: Apache-2.0
"""Golden texts of ``lspci -vvv -xxxx``: what a guest reads, without the machine's part."""

from __future__ import annotations

import re
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "exerciser.lspci"
# Each golden text with the endpoint that it is of; that one takes the place of the exerciser.
VARIANTS = {
    "exerciser": "",
    "every-capability": "tests.unit.device.pci.variants:EveryCapability",
    "messages-only": "tests.unit.device.pci.variants:MessagesOnly",
    "declared-capabilities": "tests.unit.device.pci.variants:DeclaredCapabilities",
}
# Where firmware and kernel put the function differs from machine to machine.
_PLACES = (
    (r"^\S+ (?=[0-9a-f]{4}: )", "SLOT "),
    (r"(Memory at )[0-9a-f]+", r"\1ADDRESS"),
    (r"(routed to IRQ) \d+", r"\1 N"),
    (r"^\s*(Kernel |IOMMU |Physical Slot).*\n", ""),
)
_ROW = re.compile(r"^([0-9a-f]{2,3}): ((?:[0-9a-f]{2} ?){16})$")
_BARS, _INTERRUPT_LINE = range(0x10, 0x28), 0x3C
# QEMU makes an endpoint on the root bus an integrated one, which has no link, and owns the headers
# of the lists; BARs, command, status and the interrupt line are the machine's.
OF_QEMU = {
    *range(0x04, 0x08),
    *_BARS,
    _INTERRUPT_LINE,
    *(0x34, 0x41, 0x42, 0x43),
    *range(0x4C, 0x54),
    *range(0x6C, 0x7C),
}


def normal(text: str) -> str:
    """Return lspci's text without what a machine decides, and without rows of zeros."""
    for pattern, replacement in _PLACES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    lines = []
    for line in text.splitlines():
        row = _ROW.match(line)
        if row:
            if not any(bytes.fromhex(row[2])):
                continue
            start = int(row[1], 16)
            cells = [
                "--" if start + index in (*_BARS, _INTERRUPT_LINE) else cell
                for index, cell in enumerate(row[2].split())
            ]
            line = f"{row[1]}: {' '.join(cells)}"
        lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"


def missing(found: str, golden: str) -> list[str]:
    """Return the capabilities that only the golden text has."""
    named = [
        [line.strip() for line in text.splitlines() if line.strip().startswith("Capabilities: [")]
        for text in (found, golden)
    ]
    return [line for line in named[1] if line not in named[0]]


def golden_bytes(variant: str) -> dict[int, int]:
    """Return the bytes of a golden text's dump, but for those that are masked."""
    found = dict.fromkeys(range(4096), 0)
    for offset in (*_BARS, _INTERRUPT_LINE):
        del found[offset]
    for line in GOLDEN.with_stem(variant).read_text().splitlines():
        start, colon, cells = line.partition(": ")
        if colon and re.fullmatch(r"[0-9a-f]{2,3}", start) and len(cells.split()) == 16:
            for index, cell in enumerate(cells.split()):
                if cell != "--":
                    found[int(start, 16) + index] = int(cell, 16)
    return found
