# SPDX-License-Identifier: Apache-2.0
"""The timeline as a Perfetto trace, for ui.perfetto.dev and the trace processor.

Each VM is a process. It has a track of its tests, one for each device with its requests, one below
it for each register that makes the device act (a queue's doorbell) and one for its interrupts, and
one for each buffer, from its map to its unmap. Arrows are the timeline's flows. Times are those of
the timeline: nanoseconds from the run's first event on.

The format is that of Perfetto's ``protos/perfetto/trace/trace_packet.proto`` and
``track_event.proto``; its package writes the messages. It is imported late: that takes 0.2 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, BinaryIO

from dma_rehearsal.host_harness.timeline import story
from dma_rehearsal.host_harness.timeline.buffers import Buffer
from dma_rehearsal.host_harness.timeline.events import (
    ConsoleLine,
    Dma,
    DmaRecord,
    Event,
    Interrupt,
    RegisterAccess,
    TestBegins,
    TestEnds,
)
from dma_rehearsal.host_harness.timeline.timeline import Timeline

_SEQUENCE = 1  # of packets: there is one writer
_BYTES = 3  # segments of a request that its details name
_ANNOTATIONS_MAX = 24
_COMMON = frozenset(("index", "time_ns", "vm", "device", "test"))


def write(timeline: Timeline, file: BinaryIO, events: Iterable[Event] | None = None) -> int:
    """Write a trace of ``events``, in order (default: all); return the number of packets.

    OSError when the file cannot be written.
    """
    chosen = timeline.events if events is None else list(events)
    return _Writer(timeline, file).write(chosen)


class _Writer:
    """Writes one trace. Tracks are described before their first event."""

    def __init__(self, timeline: Timeline, file: BinaryIO) -> None:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

        self._timeline, self._kinds = timeline, TrackEvent
        self._builder = StreamingTraceProtoBuilder(file)
        self._tracks: dict[tuple[object, ...], int] = {}
        self._packets = 0
        self._sources: dict[int, list[int]] = defaultdict(list)  # flows by events
        self._targets: dict[int, list[int]] = defaultdict(list)

    def write(self, events: Sequence[Event]) -> int:
        """Write all packets."""
        chosen = {each.index for each in events}
        for number, flow in enumerate(self._timeline.flows, 1):
            if flow.source in chosen and flow.target in chosen:
                self._sources[flow.source].append(number)
                self._targets[flow.target].append(number)
        begun = self._buffers(events)
        ends: dict[int, list[Buffer]] = defaultdict(list)
        for buffer in begun:
            if buffer.end is not None:
                ends[buffer.end].append(buffer)
        open_ones = {buffer.number for buffer in begun}
        starts = {buffer.begin: buffer for buffer in begun}
        first, last = (events[0].time_ns, events[-1].time_ns) if events else (0, 0)
        for buffer in begun:
            if buffer.begin not in chosen:  # it was there before
                self._buffer_begins(buffer, first)
        for event in events:
            if (made := starts.get(event.index)) is not None:
                self._buffer_begins(made, event.time_ns)
            self._event(event)
            for buffer in ends.get(event.index, ()):
                self._buffer_ends(buffer, event.time_ns)
                open_ones.discard(buffer.number)
        for buffer in begun:
            if buffer.number in open_ones:
                self._buffer_ends(buffer, last)
        return self._packets

    def _buffers(self, events: Sequence[Event]) -> list[Buffer]:
        """Return the buffers that events are about, the oldest first."""
        found = {each.number: each for event in events for each in self._timeline.buffers_of(event)}
        return [found[number] for number in sorted(found)]

    # Events.

    def _event(self, event: Event) -> None:
        if isinstance(event, TestBegins):
            self._slice(event, self._track(event.vm, "tests"), event.test or "")
        elif isinstance(event, TestEnds):
            packet = self._packet(event.time_ns)
            packet.track_event.type = self._kinds.TYPE_SLICE_END
            packet.track_event.track_uuid = self._track(event.vm, "tests")
            self._put(packet)
        elif not isinstance(event, DmaRecord) or event.reason != "NONE":
            self._instant(event, self._place(event))  # that request tells the rest

    def _place(self, event: Event) -> int:
        """Return the track of an event."""
        device = self._track(event.vm, event.device)
        if isinstance(event, RegisterAccess):
            if event.doorbell:
                return self._track(event.vm, event.register or f"{event.offset:#x}", device)
            return self._track(event.vm, "registers", device)
        if isinstance(event, Interrupt):
            return self._track(event.vm, "interrupts", device)
        if isinstance(event, ConsoleLine):
            return self._track(event.vm, "console")
        return device

    def _slice(self, event: Event, track: int, name: str) -> None:
        packet = self._packet(event.time_ns)
        packet.track_event.type = self._kinds.TYPE_SLICE_BEGIN
        packet.track_event.track_uuid = track
        packet.track_event.name = name
        self._put(packet)

    def _instant(self, event: Event, track: int) -> None:
        packet = self._packet(event.time_ns)
        told = packet.track_event
        told.type = self._kinds.TYPE_INSTANT
        told.track_uuid = track
        told.name = _name(event)
        told.flow_ids.extend(self._sources.get(event.index, ()))
        told.terminating_flow_ids.extend(self._targets.get(event.index, ()))
        _annotate(told, "what", story.words(event))
        if event.test:
            _annotate(told, "test", event.test)
        if buffers := self._timeline.buffers_of(event):
            _annotate(told, "buffers", ", ".join(each.name for each in buffers))
        for field in fields(event)[:_ANNOTATIONS_MAX]:
            if field.name not in _COMMON:
                _annotate(told, field.name, _value(getattr(event, field.name)))
        self._put(packet)

    # Buffers.

    def _buffer_begins(self, buffer: Buffer, time_ns: int) -> None:
        packet = self._packet(time_ns)
        told = packet.track_event
        told.type = self._kinds.TYPE_SLICE_BEGIN
        told.track_uuid = self._buffer_track(buffer)
        told.name = f"{buffer.direction or buffer.kind} {story.ranges_in_words(buffer.segments)}"
        _annotate(told, "what", story.buffer_in_words(buffer))
        self._put(packet)

    def _buffer_ends(self, buffer: Buffer, time_ns: int) -> None:
        packet = self._packet(time_ns)
        packet.track_event.type = self._kinds.TYPE_SLICE_END
        packet.track_event.track_uuid = self._buffer_track(buffer)
        self._put(packet)

    def _buffer_track(self, buffer: Buffer) -> int:
        return self._track(buffer.vm, buffer.name, self._track(buffer.vm, "buffers"))

    # Tracks and packets.

    def _track(self, vm: int, name: str, parent: int = 0) -> int:
        """Return the number of a track, which is described the first time."""
        process = self._of_vm(vm)
        key = vm, name, parent
        if key not in self._tracks:
            self._describe(key, name, parent or process)
        return self._tracks[key]

    def _of_vm(self, vm: int) -> int:
        key = (vm,)
        if key not in self._tracks:
            self._tracks[key] = len(self._tracks) + 1
            packet = self._packet(None)
            packet.track_descriptor.uuid = self._tracks[key]
            packet.track_descriptor.process.pid = vm
            packet.track_descriptor.process.process_name = f"VM {vm}"
            self._put(packet)
        return self._tracks[key]

    def _describe(self, key: tuple[object, ...], name: str, parent: int) -> None:
        self._tracks[key] = len(self._tracks) + 1
        packet = self._packet(None)
        packet.track_descriptor.uuid = self._tracks[key]
        packet.track_descriptor.parent_uuid = parent
        packet.track_descriptor.name = name
        self._put(packet)

    def _packet(self, time_ns: int | None) -> Any:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if time_ns is not None:
            packet.timestamp = time_ns
        return packet

    def _put(self, packet: Any) -> None:
        self._builder.write_packet(packet)
        self._packets += 1


def _name(event: Event) -> str:
    """Return the name that a track shows."""
    if isinstance(event, Dma):
        verb = "write" if event.write else "read"
        return f"REFUSED {verb}: {event.reason}" if event.refused else f"DMA {verb}"
    if isinstance(event, Interrupt):
        return "INTx" if event.kind == "intx" else f"{event.kind.upper()} {event.vector}"
    if isinstance(event, RegisterAccess):
        return f"{'write' if event.write else 'read'} {event.register or hex(event.offset)}"
    return story.words(event).partition(":")[0]


def _value(value: object) -> object:
    """Return a field's value as a detail."""
    if isinstance(value, tuple):
        shown = ", ".join(str(_value(each)) for each in value[:_BYTES])
        return f"{shown}, ..." if len(value) > _BYTES else shown
    if isinstance(value, bool | int | str):
        return value
    return "" if value is None else str(value)


def _annotate(told: Any, name: str, value: object) -> None:
    """Add a detail; an address is shown in hexadecimal by Perfetto for a pointer."""
    if value == "" or value is None:
        return
    detail = told.debug_annotations.add()
    detail.name = name
    if isinstance(value, bool):
        detail.bool_value = value
    elif isinstance(value, int) and name in ("address", "byte", "owner", "buffer_tag"):
        detail.pointer_value = value
    elif isinstance(value, int) and value >= 0:
        detail.uint_value = value
    elif isinstance(value, int):
        detail.int_value = value
    else:
        detail.string_value = str(value)
