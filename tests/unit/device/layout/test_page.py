# SPDX-License-Identifier: Apache-2.0
"""The platform's page has one definition."""

from __future__ import annotations

import re

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE

_DEFINES = re.compile(r"^_?\w*PAGE(_SIZE)?\b[^=\n]*=\s*(4096|0x1000|1 << 12)\b", re.MULTILINE)
DEFINITIONS = [
    "device/layout/extension.py",  # PRP_PAGE: the page of NVMe's PRP lists
    "device/layout/page.py",
    "device/vfio_user/messages.py",  # the protocol's smallest page; vfio_user stands alone
]


def test_page_has_one_definition() -> None:
    files = [
        path.relative_to(SOURCE).as_posix()
        for folder in ("device", "guest", "host_harness")
        for path in (SOURCE / folder).rglob("*.py")
        if _DEFINES.search(path.read_text())
    ]
    assert sorted(files) == DEFINITIONS


@pytest.mark.parametrize("line", ["PAGE = 4096", "_PAGE: Final = 0x1000", "PAGE_SIZE = 1 << 12"])
def test_another_definition_is_found(line: str) -> None:
    assert _DEFINES.search(f"x = 1\n{line}  # bytes\n")
    assert not _DEFINES.search(f"memory.{line}\nCONFIG_SIZE = 4096\n    {line}\n")
