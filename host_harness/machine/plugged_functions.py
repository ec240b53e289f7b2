# SPDX-License-Identifier: Apache-2.0
"""The functions of a run's endpoints: their slots in the guest, and the sockets that serve them.

Which functions an endpoint has is known to its class alone, so the device process is asked (see
`device_process`). QEMU plugs them in when it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.options.run_options import Options

# A slot must not depend on what else is plugged in: a saved state has each function at its slot.
_FIRST, _FIRST_BEHIND_IOMMU = 4, 3
_SECOND = 6  # and the devices after it behind it
_NUMBERS = range(8)
_DEVICES = range(8)
_VECTORS = range(2049)  # PCI Local Bus Specification 3.0, 6.8.2.3


@dataclass(frozen=True, slots=True)
class PluggedFunction:
    """A function. ``device`` counts the devices that ENDPOINT names; ``number`` is in its slot.

    ``vectors`` counts its MSI-X vectors.
    """

    device: int
    number: int
    socket: Path
    vectors: int = 0

    @property
    def id(self) -> str:
        """Its id in QEMU."""
        device = f"endpoint{self.device}" if self.device else "exerciser"
        return f"{device}.{self.number}" if self.number else device

    def slot(self, *, iommu: bool) -> int:
        """Return its slot on the root bus."""
        if self.device == 0:
            return _FIRST_BEHIND_IOMMU if iommu else _FIRST
        return _SECOND + self.device - 1


def socket_of(folder: Path, device: int) -> Path:
    """Return the socket of function 0 of a device. That of function n has ``.n`` behind it."""
    return folder / (f"endpoint{device}" if device else "exerciser")


def usual(options: Options, folder: Path) -> tuple[PluggedFunction, ...]:
    """Return the functions of a run whose devices have one each.

    Without ENDPOINT the exerciser has a peer, which it reaches by DMA; behind an IOMMU it could
    not.
    """
    count = 1 + options.has_peer if options.endpoint is None else len(options.endpoints)
    return tuple(PluggedFunction(each, 0, socket_of(folder, each)) for each in range(count))


def told(answer: Any) -> tuple[PluggedFunction, ...]:
    """Return the functions that a device process says it serves. ValueError for another answer."""
    if not isinstance(answer, list):
        raise ValueError(f"{answer!r:.100} is not a list of functions")
    found = tuple(_function(each) for each in answer)
    if (
        not found
        or found[0].device
        or len({(each.device, each.number) for each in found}) < len(found)
    ):
        raise ValueError(f"{answer!r:.100} are not the functions of devices")
    return found


def _function(each: Any) -> PluggedFunction:
    try:
        device, number, socket = each["device"], each["function"], each["socket"]
        vectors = each["vectors"]
    except (TypeError, KeyError):
        raise ValueError(f"{each!r:.100} is not a function") from None
    known = device in _DEVICES and number in _NUMBERS and vectors in _VECTORS
    if not known or not isinstance(socket, str):
        raise ValueError(f"{each!r:.100} is not a function that a slot can have")
    return PluggedFunction(int(device), int(number), Path(socket), int(vectors))


def shape(functions: Sequence[PluggedFunction]) -> tuple[PluggedFunction, ...]:
    """Return the same functions with sockets that do not depend on the run, for a key."""
    return tuple(PluggedFunction(each.device, each.number, Path(each.id)) for each in functions)


def is_alone(function: PluggedFunction, functions: Sequence[PluggedFunction]) -> bool:
    """Return whether a function is the only one of its device."""
    return sum(each.device == function.device for each in functions) == 1
