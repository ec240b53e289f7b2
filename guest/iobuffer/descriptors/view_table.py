# SPDX-License-Identifier: Apache-2.0
"""The views of one buffer: made on demand, and counted, so that an error can name them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.memory.backing import Backing


class ViewTable:
    """The exporter that all memoryviews of one buffer share, for as long as one of them lives."""

    def __init__(self) -> None:
        self._exporter: weakref.ref[Any] | None = None

    def view(self, owner: object, backing: Backing, size: int) -> memoryview:
        """Return ``size`` bytes of ``backing`` as a memoryview that keeps ``owner`` alive."""
        # A ctypes array, since a memoryview keeps its exporter alive, and that can keep us alive.
        exporter: Any = None if self._exporter is None else self._exporter()
        if exporter is None:
            exporter = backing.export()
            exporter.descriptor = owner
            exporter.taken_at = provenance.here()
            self._exporter = weakref.ref(exporter)
        return memoryview(exporter).cast("B")[:size]

    def alive(self) -> str:
        """Say which views hold the memory, "" for none. An error must not hold it itself."""
        exporter = None if self._exporter is None else self._exporter()
        if exporter is None:
            return ""
        taken = provenance.text(exporter.taken_at)
        return (
            f"{_count_views(exporter)} still alive, the first of them taken at {taken}; "
            "release or delete it first"
        )


def _count_views(exporter: object) -> str:
    """Say how many memoryviews of ``exporter`` live, for a message."""
    holders = [r for r in gc.get_referrers(exporter) if type(r).__name__ == "managedbuffer"]
    sizes = []
    for view in (r for holder in holders for r in gc.get_referrers(holder)):
        if isinstance(view, memoryview):
            try:
                sizes.append(str(view.nbytes))
            except ValueError:  # released, and only its object is left
                continue
    if not sizes:
        return "something that uses a view's memory is"
    return f"{len(sizes)} memoryview(s) of it (of {', '.join(sizes)} bytes) are"
