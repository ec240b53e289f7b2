# SPDX-License-Identifier: Apache-2.0
"""The kernel module that rehearses the DMA API of functions (``guest/dma_ops/``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dma_rehearsal.guest.drivers import driver_modules
from dma_rehearsal.guest.drivers.driver_modules import Value
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.linux import kernel_modules

MODULE: Final = "dma_rehearsal_ops"


@dataclass(frozen=True, slots=True)
class FailureCount:
    """``calls`` that could fail since the first function was bound, and those that ``failed``."""

    calls: int
    failed: int


def load(**parameters: Value) -> None:
    """Load the module with these parameters; `PciError` with the kernel's reason."""
    try:
        kernel_modules.load(MODULE, driver_modules.arguments(parameters))
    except OSError as error:
        raise PciError(f"{error}; the kernel's messages say more") from error


def unload() -> None:
    """Unload it; `PciError` while a function has its DMA operations."""
    try:
        kernel_modules.unload(MODULE)
    except OSError as error:
        raise PciError(str(error)) from error


def failures() -> FailureCount:
    """Return what it has counted since the last bind."""
    return FailureCount(_number("calls"), _number("failed"))


def _number(name: str) -> int:
    path = driver_modules.LOADED / MODULE / "parameters" / name
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise PciError(f"{path}: {error}") from error
