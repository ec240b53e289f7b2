# SPDX-License-Identifier: Apache-2.0
"""An NVMe controller: one namespace, several queue pairs, after NVM Express Base 1.4.

The guest imports this package with its tests, and has no models there; so `Nvme` is imported late.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Nvme":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from examples.nvme.controller import Nvme

    return Nvme
