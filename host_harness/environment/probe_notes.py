# SPDX-License-Identifier: Apache-2.0
"""Notes of probes in the cache, so that a probe is made once for each boot of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache


class ProbeNote:
    """The note of one probe: of a ``folder`` in the cache, of what was probed, of user and boot."""

    def __init__(self, folder: str, inputs: Mapping[str, object]) -> None:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        key = {**inputs, "boot": boot_id, "uid": os.geteuid()}
        self._path = build_cache.cache_root() / folder / build_cache.digest_of(key)

    def read(self) -> str:
        """Return what was written; "" for nothing."""
        try:
            return self._path.read_text()
        except OSError:
            return ""

    def write(self, text: str) -> None:
        """Keep the text; without it, as in a cache that may only be read, the next run probes."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}")
            partial.write_text(text)
            partial.rename(self._path)
