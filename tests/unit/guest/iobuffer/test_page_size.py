# SPDX-License-Identifier: Apache-2.0
"""A page is the kernel's: 4, 16 or 64 KiB on arm64. One definition, and no number beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
GUEST = ROOT / "guest"
DEFINITION = "PAGE: Final = mmap.PAGESIZE"
OF_A_PAGE = re.compile(r"\b4096\b|\b0x1000\b|\b0x[fF]{3}\b|(<<|>>) 12\b|PAGESIZE|PAGE_SHIFT")
# Lines with such a number that is not the kernel's page.
OTHERS = {
    "edu.py": {"BUFFER_SIZE: Final = 4096"},
    "memory_types.py": {"_PAT_LARGE: Final = 1 << 12"},
    "pci_sysfs.py": {"_EXTENDED_MAX: Final = (0x1000 - _EXTENDED) // 4"},
    "page_frames.py": {
        "first, end = address // mmap.PAGESIZE, "
        "(address + length + mmap.PAGESIZE - 1) // mmap.PAGESIZE",
        "(entry & _FRAME) * mmap.PAGESIZE if entry & _PRESENT else None",
    },
    "swap.py": {
        "from mmap import PAGESIZE",
        "start = _HEADER.pack(1, size // PAGESIZE - 1, 0)",
        'return start.ljust(PAGESIZE - len(_MAGIC), b"\\0") + _MAGIC',
    },
    "ranges.py": {DEFINITION},
    "flags.py": {"kIOMapReadOnly = 0x1000"},
    "holders.py": {"_PROCESSES_MAX: Final = 4096"},
    "placement.py": {"_TOUCHED_MAX: Final = 4096"},
    "remote.py": {"_MESSAGE_MAX: Final = 4096"},
}


def numbers(name: str, text: str) -> list[str]:
    """Return the lines of code that may count in pages of one size."""
    found = []
    for line in text.splitlines():
        code = line.split("#")[0].strip()
        quoted = code.startswith('"""') or "IOBufferMemoryDescriptor.inTask" in code
        if OF_A_PAGE.search(code) and not quoted and code not in OTHERS.get(name, ()):
            found.append(f"{name}: {code}")
    return found


def test_a_page_has_one_definition() -> None:
    allocator = sorted((GUEST / "iobuffer").rglob("*.py"))
    rooms = ("drivers", "drivers/platform", "linux", "agent")
    others = [module for room in rooms for module in (GUEST / room).glob("*.py")]
    for module in (*others, *allocator):
        assert numbers(module.name, module.read_text()) == []
    assert [each.name for each in allocator if DEFINITION in each.read_text()] == ["ranges.py"]


@pytest.mark.parametrize(
    "line", ["PAGE: Final = 4096", "start & ~0xFFF", "address >> 12", DEFINITION, "mmap.PAGESIZE"]
)
def test_another_one_is_found(line: str) -> None:
    assert numbers("pin.py", f"x = 1\n    {line}  # why\n") == [f"pin.py: {line}"]
    assert (
        numbers("os/test_pin.py", "size = align_up(size, PAGE)  # 4096 where pages are small\n")
        == []
    )


@pytest.mark.parametrize("kibibytes", [16, 64])
def test_the_allocator_with_pages_of_another_size(kibibytes: int) -> None:
    """Its tests that count in pages, in a process whose kernel says so."""
    counted = (
        "test_kernel_maps.py",
        "descriptors/test_multi_descriptor.py::test_a_map_over_several_entries",
        "descriptors/test_multi_descriptor.py::test_dma_map_length",
        "os/test_pin.py",
        "memory/test_quarantine.py",
        "os/test_virtual_memory.py",
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.unit.guest.page_size", str(kibibytes << 10)),
            *("-q", "-x", "-p", "no:cacheprovider", "-W", "error"),
            *(f"tests/unit/guest/iobuffer/{each}" for each in counted),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d\d passed", done.stdout)
