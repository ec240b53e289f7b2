# SPDX-License-Identifier: Apache-2.0
"""The functions that a device process serves: their devices, names and sockets.

A process serves one device, or several that are independent of each other. A device is one endpoint
or a `MultiFunction`. All functions share the platform's interconnect, with its lock, and reach
each other's memory BARs. A function's name is unique, for it tells functions apart in the trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.device import loader
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.multi_function import MultiFunction
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.device.exerciser.request_limits import RequestLimits
from dma_rehearsal.device.loader import EndpointNotFound
from dma_rehearsal.device.trace import Trace

DEVICES_MAX = 8
SLOTS = 32  # of a bus (PCI Local Bus Specification 3.0, 3.2.2.3.2)
PEER = "peer"
_TAKEN = ("platform", "device process")  # names in the trace


@dataclass(frozen=True, slots=True)
class Served:
    """A function, and the socket on which it is served.

    ``device`` counts the devices of the process, ``number`` the functions of a device; both from 0.
    """

    endpoint: Endpoint
    device: int
    number: int
    socket: Path

    def as_json(self) -> dict[str, object]:
        """Return what a client must know to connect to it."""
        return {
            "name": self.endpoint.name,
            "device": self.device,
            "function": self.number,
            "socket": str(self.socket),
            "vectors": self.endpoint.vectors,
        }


def socket_of(device: Path, number: int) -> Path:
    """Return the socket of a function of a device, whose function 0 is served on ``device``."""
    return device if number == 0 else device.with_name(f"{device.name}.{number}")


def make(
    text: str,
    sockets: Sequence[Path],
    trace: Trace,
    options: Mapping[str, Any],
    *,
    profile: Profile | None = None,
    peer: Path | None = None,
    slots: Sequence[int] | None = None,
) -> list[Served]:
    """Make the devices that ``module:Class,module:Class`` names, each with its own socket.

    ``options`` go to each constructor. ``profile`` does, too, where one takes it, as the
    exerciser's does; the requests of any other device are held to its limits. ``peer``: serve the
    only device a second time there. ``slots``: those of the devices on bus 0, which then know their
    requester IDs. EndpointNotFound for a class that cannot be served, for two functions of one
    name, and for a profile of several devices. ValueError for declarations that no function can
    have, for a profile that only the exerciser can have, and for slots that there are not.
    """
    names = loader.names(text)
    if len(names) > DEVICES_MAX:
        raise EndpointNotFound(
            f"--endpoint names {len(names)} devices, and a process serves {DEVICES_MAX}",
            "leave some out, or make them functions of one device (MultiFunction)",
        )
    if len(names) != len(sockets):
        raise EndpointNotFound(
            f"--endpoint names {len(names)} devices, and there are {len(sockets)} sockets",
            "give one --endpoint-socket for each device, in the same order",
        )
    if profile is not None and len(names) > 1:
        raise EndpointNotFound(
            f"--profile describes one device, and --endpoint names {len(names)}",
            "leave --profile out, or serve one device",
        )
    found: list[Served] = []
    for device, (name, socket) in enumerate(zip(names, sockets, strict=True)):
        found += _functions(_make(name, trace, options, profile), device, socket)
    if peer is not None:
        if len(found) > 1:
            raise EndpointNotFound(
                f"--peer-socket serves one function a second time, and --endpoint {text} has "
                f"{len(found)}",
                "leave --peer-socket out: functions of one process reach each other anyway",
            )
        found += _functions(_make(text, trace, options, profile), 1, peer)
        found[-1].endpoint.name = PEER
    _check_names(found, names)
    if slots is not None:
        _place(found, slots)
    fabric = Fabric()
    for each in found:
        each.endpoint.bus.fabric = fabric
    return found


def _make(
    name: str, trace: Trace, options: Mapping[str, Any], profile: Profile | None
) -> loader.Device:
    """Make a device that has the profile, or whose requests are held to the profile's limits."""
    kind = loader.find(name)
    if profile is None:
        return loader.make(kind, name, trace, **options)
    if "profile" in inspect.signature(kind).parameters:
        return loader.make(kind, name, trace, **options, profile=profile)
    limits = RequestLimits(profile)
    made = loader.make(kind, name, trace, **options)
    for each in _endpoints(made).values():
        each.bus.limits = limits.check
    return made


def _endpoints(made: loader.Device) -> Mapping[int, Endpoint]:
    return made.endpoints if isinstance(made, MultiFunction) else {0: made}


def _functions(made: loader.Device, device: int, socket: Path) -> list[Served]:
    return [
        Served(endpoint, device, number, socket_of(socket, number))
        for number, endpoint in _endpoints(made).items()
    ]


def _place(found: Sequence[Served], slots: Sequence[int]) -> None:
    """Tell each function its requester ID. ValueError for slots that there are not.

    A guest renumbers no slots, nor the root bus: its number is the host bridge's.
    """
    devices = 1 + max(each.device for each in found)
    if len(slots) != devices or len(set(slots)) < devices:
        raise ValueError(f"{devices} devices have {devices} slots, each its own, not {slots}")
    if not all(0 <= slot < SLOTS for slot in slots):
        raise ValueError(f"--slot: a bus has the slots 0 to {SLOTS - 1}, not {slots}")
    for each in found:
        each.endpoint.requester_id = slots[each.device] << 3 | each.number


def _check_names(found: Sequence[Served], names: Sequence[str]) -> None:
    """Raise EndpointNotFound for two functions that the trace could not tell apart."""
    seen: dict[str, Served] = {}
    for each in found:
        name = each.endpoint.name
        kind = type(each.endpoint).__name__
        if name in _TAKEN:
            raise EndpointNotFound(
                f"--endpoint {names[each.device]}: {kind} has the name {name!r}, which is one of "
                "the rig's own in the trace",
                f'give {kind} another name: name = "..." in the class',
            )
        if (other := seen.setdefault(name, each)) is not each:
            both = f"{names[other.device]} and {names[each.device]}"
            raise EndpointNotFound(
                f"--endpoint: {both} have functions of the same name, {name!r}, and the trace "
                "could not tell them apart",
                f'give {kind} another name: name = "..." in the class',
            )
