# SPDX-License-Identifier: Apache-2.0
"""Names for the callers in a driver's reports: functions and lines in place of addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

LoadedModules = Mapping[str, Mapping[str, int]]
"""Addresses of sections by the names of modules and sections; "" is the kernel's own ``_stext``."""


class CallerNames(Protocol):
    """Names callers by debug information."""

    def name(self, callers: Sequence[int], loaded: LoadedModules) -> str:
        """Return the driver's place among return addresses, innermost first, as text."""


class RawCallers:
    """Names callers by their addresses, where there is no debug information."""

    def name(self, callers: Sequence[int], loaded: LoadedModules) -> str:  # noqa: ARG002
        """Return the innermost address."""
        return hex(callers[0]) if callers else "an unknown place"
