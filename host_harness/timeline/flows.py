# SPDX-License-Identifier: Apache-2.0
"""Flows: which event led to which, as far as their order and their memory tell.

A flow says "before, and about the same", which is not yet "because of". A register write that acts
leads to the requests of that function that follow; a map to the requests that touch its memory; and
requests to the function's next interrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from dma_rehearsal.host_harness.timeline.buffers import Buffer
from dma_rehearsal.host_harness.timeline.events import Dma, Event, Interrupt, RegisterAccess, Reset

_WAITING_MAX = 256  # requests that one interrupt follows
_BUFFERS_MAX = 8  # of one request that have a flow


@dataclass(frozen=True, slots=True)
class Flow:
    """An arrow from one event to a later one, both by their index."""

    kind: Literal["doorbell to DMA", "map to DMA", "DMA to interrupt"]
    source: int
    target: int


@dataclass(slots=True)
class _Device:
    """The newest doorbell of a function, and its requests since its last interrupt."""

    doorbell: int | None = None
    requests: deque[int] = field(default_factory=lambda: deque(maxlen=_WAITING_MAX))


class FlowFinder:
    """Finds the flows of all VMs. `feed` takes the events in their order."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._devices: dict[tuple[int, str], _Device] = {}
        self.flows: list[Flow] = []

    def feed(self, event: Event, buffers: Sequence[int]) -> None:
        """Take an event, and the numbers of the buffers that it is about."""
        if isinstance(event, RegisterAccess):
            if event.doorbell:
                self._of(event).doorbell = event.index
        elif isinstance(event, Dma):
            device = self._of(event)
            if device.doorbell is not None:
                self.flows.append(Flow("doorbell to DMA", device.doorbell, event.index))
            for number in buffers[:_BUFFERS_MAX]:
                begin = self._buffers[number - 1].begin
                self.flows.append(Flow("map to DMA", begin, event.index))
            device.requests.append(event.index)
        elif isinstance(event, Interrupt) and event.action in ("sent", "raised", "pending"):
            device = self._of(event)
            for each in device.requests:
                self.flows.append(Flow("DMA to interrupt", each, event.index))
            device.requests.clear()
        elif isinstance(event, Reset):
            self._devices.pop((event.vm, event.device), None)

    def _of(self, event: Event) -> _Device:
        return self._devices.setdefault((event.vm, event.device), _Device())
