# SPDX-License-Identifier: Apache-2.0
"""Faults of the guest's kernel module, set and cleared while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARAMETER = Path("/sys/module/dma_rehearsal/parameters/fault")  # guest/driver/dma_rehearsal_fault.c


@contextmanager
def driver_fault(name: str) -> Iterator[None]:
    """Have the module act with a fault within the ``with``; then with the one that it had before.

    OSError (EINVAL) for a name that the module does not know; its log lists them.
    """
    before = PARAMETER.read_text()
    PARAMETER.write_text(name)
    try:
        yield
    finally:
        PARAMETER.write_text(before)
