# SPDX-License-Identifier: Apache-2.0
"""The timeline as a value change dump (IEEE 1364-2005, clause 18), for GTKWave and Surfer.

A scope for each VM has one for each device, whose signals are those of its newest request:
``dma`` is up for a moment at each request, ``address``, ``length`` (bytes), ``write``, ``granted``
(0: it was refused) and ``snooped`` tell it; ``doorbell`` and ``irq`` are up for a moment, with the
``offset`` and the ``vector``. Times are nanoseconds from the run's first event on. pyvcd writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import TextIO

from dma_rehearsal.host_harness.timeline.events import (
    Dma,
    Event,
    Interrupt,
    RegisterAccess,
    TestBegins,
    TestEnds,
)
from dma_rehearsal.host_harness.timeline.timeline import Timeline

PULSE_NS = 1000  # how long a moment is; shorter where the next one comes sooner
_SIGNALS = {  # of a device, and their bits
    "dma": 1,
    "address": 64,
    "length": 32,
    "write": 1,
    "granted": 1,
    "snooped": 1,
    "sequence": 32,
    "doorbell": 1,
    "offset": 64,
    "irq": 1,
    "vector": 16,
}
_PULSES = ("dma", "doorbell", "irq")
_Signal = tuple[int, str, str]  # VM, device, name
_Change = tuple[int, _Signal, int | str]  # time, signal, value
_TEST = ("", "test")


def write(timeline: Timeline, file: TextIO, events: Iterable[Event] | None = None) -> int:
    """Write a dump of ``events``, in order (default: all); return the number of changes.

    OSError when the file cannot be written.
    """
    from vcd import VCDWriter

    chosen = timeline.events if events is None else list(events)
    changes = sorted(_pulsed(_changes(chosen)), key=itemgetter(0))
    writer = VCDWriter(file, timescale="1 ns", comment="dma-rehearsal", init_timestamp=0)
    with writer:
        variables = {}
        scopes: set[str] = set()
        for vm, device in sorted({(signal[0], signal[1]) for _, signal, _ in changes}):
            scope = f"vm{vm}.{_identifier(device)}" if device else f"vm{vm}"
            while scope in scopes:  # a.b and a_b
                scope += "_"
            scopes.add(scope)
            for name, bits in _SIGNALS.items() if device else ():
                variables[vm, device, name] = writer.register_var(
                    scope, name, "wire", size=bits, init=0
                )
            if not device:
                variables[vm, *_TEST] = writer.register_var(scope, "test", "string", init="")
        for time, signal, value in changes:
            writer.change(variables[signal], time, value)
    return len(changes)


def _changes(events: Iterable[Event]) -> Iterator[_Change]:
    """Yield the changes of events; of a signal that is a pulse, the rise alone."""
    for event in events:
        at, vm, device = event.time_ns, event.vm, event.device
        if isinstance(event, Dma):
            told: dict[str, int] = {
                "address": event.address,
                "length": event.length & 0xFFFF_FFFF,
                "write": int(event.write),
                "granted": int(not event.refused),
                "snooped": int(event.snooped),
                "sequence": event.sequence & 0xFFFF_FFFF,
                "dma": 1,
            }
        elif isinstance(event, Interrupt) and event.action != "lowered":
            told = {"vector": event.vector & 0xFFFF, "irq": 1}
        elif isinstance(event, RegisterAccess) and event.doorbell:
            told = {"offset": event.offset, "doorbell": 1}
        elif isinstance(event, TestBegins | TestEnds):
            name = (event.test or "") if isinstance(event, TestBegins) else ""
            yield at, (vm, *_TEST), "_".join(name.split())
            continue
        else:
            continue
        for signal, value in told.items():
            yield at, (vm, device, signal), value


def _pulsed(changes: Iterable[_Change]) -> Iterator[_Change]:
    """Add the fall of each pulse: after `PULSE_NS`, or before the next rise.

    Two rises at one time are one.
    """
    up: dict[_Signal, int] = {}
    for change in changes:
        at, signal, _ = change
        if signal[2] not in _PULSES:
            yield change
            continue
        before = up.get(signal)
        if before is not None and before < at:
            yield min(before + PULSE_NS, max(before + 1, at - 1)), signal, 0
        up[signal] = at
        yield change
    for signal, at in up.items():
        yield at + PULSE_NS, signal, 0


def _identifier(name: str) -> str:
    """Return a device's name as a scope has it: a dot would begin another scope."""
    return "".join(each if each.isalnum() or each == "_" else "_" for each in name) or "device"
