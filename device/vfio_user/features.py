# SPDX-License-Identifier: Apache-2.0
"""DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE."""

from __future__ import annotations

import errno
from collections.abc import Callable

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.dirty import MAX_RANGES, DmaLog
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import (
    DeviceFeature,
    Feature,
    FeatureFlag,
    LoggingControl,
    MigData,
)
from dma_rehearsal.device.vfio_user.migration import Migration

_GET, _SET, _PROBE = FeatureFlag.GET, FeatureFlag.SET, FeatureFlag.PROBE
_METHODS = {
    Feature.MIGRATION: _GET,
    Feature.MIG_DEVICE_STATE: _GET | _SET,
    Feature.DMA_LOGGING_START: _SET,
    Feature.DMA_LOGGING_STOP: _SET,
    Feature.DMA_LOGGING_REPORT: _GET,
}
_MIGRATION = (Feature.MIGRATION, Feature.MIG_DEVICE_STATE)


class Features:
    """The features of one client's device: its migration, if it has one, and the log of its DMA."""

    def __init__(self, migration: Migration | None, log: DmaLog) -> None:
        self._migration = migration
        self._log = log
        self._handlers: dict[Feature, Callable[[bytes, int], bytes]] = {
            Feature.DMA_LOGGING_START: self._start,
            Feature.DMA_LOGGING_STOP: self._stop,
            Feature.DMA_LOGGING_REPORT: self._report,
        }

    def feature(self, payload: bytes) -> bytes:
        """Return the reply to DEVICE_FEATURE.

        RemoteProtocolError: ENOTTY for a feature that the device does not have, as VFIO's ioctl has
        it; EINVAL for a method that the feature does not have, and for all that is malformed.
        """
        if len(payload) < DeviceFeature.STRUCT.size:
            raise RemoteProtocolError("DEVICE_FEATURE is cut short")
        request = DeviceFeature.unpack(payload)
        number, methods = request.flags & wire.FEATURE_MASK, request.flags & ~wire.FEATURE_MASK
        wanted = methods & ~int(_PROBE)
        if methods & ~int(_GET | _SET | _PROBE) or not methods:
            raise RemoteProtocolError(f"DEVICE_FEATURE flags {request.flags:#x}")
        if wanted == _GET | _SET and not methods & _PROBE:
            raise RemoteProtocolError("DEVICE_FEATURE: both GET and SET")
        feature = Feature(number) if number in set(Feature) else None
        if feature is None or (feature in _MIGRATION and self._migration is None):
            raise RemoteProtocolError(f"device feature {number} is not offered", errno.ENOTTY)
        if wanted & ~int(_METHODS[feature]):
            raise RemoteProtocolError(f"{feature.name} has no such method: {request.flags:#x}")
        # A reply to these is as long as its request; checked before anything happens.
        if methods & (_SET | _PROBE) and request.argsz < len(payload):
            raise RemoteProtocolError(f"{feature.name}: argsz {request.argsz} has no room")
        if methods & _PROBE:
            return payload
        data = payload[DeviceFeature.STRUCT.size :]
        if feature in _MIGRATION and self._migration is not None:
            answer = _migrate(self._migration, feature, wanted == _SET, data)
        else:
            answer = self._handlers[feature](data, request.argsz)
        # A GET's reply says how long it is; a SET's is its request, but for what the device chose.
        size = DeviceFeature.STRUCT.size + len(answer)
        if request.argsz < size:
            raise RemoteProtocolError(f"{feature.name}: argsz {request.argsz} has no room")
        argsz = size if wanted == _GET else request.argsz
        return DeviceFeature(argsz, request.flags).pack() + answer

    def _start(self, data: bytes, _argsz: int) -> bytes:
        fixed = LoggingControl.STRUCT.size
        if len(data) < fixed:
            raise RemoteProtocolError("DMA_LOGGING_START is cut short")
        control = LoggingControl.unpack(data)
        size = fixed + control.num_ranges * wire.LOGGING_RANGE.size
        if control.num_ranges > MAX_RANGES or len(data) != size:
            raise RemoteProtocolError(f"{control.num_ranges} ranges in {len(data)} bytes")
        ranges = list(wire.LOGGING_RANGE.iter_unpack(data[fixed:]))
        page_size = self._log.start(control.page_size, ranges)
        return LoggingControl(page_size, control.num_ranges, control.reserved).pack() + data[fixed:]

    def _stop(self, data: bytes, _argsz: int) -> bytes:
        # Clients send DMA_LOGGING_START's fields with it, which say nothing here.
        self._log.stop()
        return data

    def _report(self, data: bytes, argsz: int) -> bytes:
        if len(data) != wire.LoggingReport.STRUCT.size:
            raise RemoteProtocolError(f"DMA_LOGGING_REPORT of {len(data)} bytes")
        report = wire.LoggingReport.unpack(data)
        room = argsz - DeviceFeature.STRUCT.size - len(data)
        # Before the report, which forgets what it tells.
        units = -(-report.length // report.page_size) if report.page_size else 0
        if 8 * -(-units // 64) > min(room, wire.MAX_DATA_XFER):
            raise RemoteProtocolError(f"DMA_LOGGING_REPORT: argsz {argsz} has no room for {units}")
        return data + self._log.report(report.iova, report.length, report.page_size)

    # Migration data.

    def read(self, payload: bytes, most: int) -> bytes:
        """Return the reply to MIG_DATA_READ; ``most`` is what the client takes in a message."""
        request = self._data_request(payload)
        if len(payload) != MigData.STRUCT.size or request.size > most:
            raise RemoteProtocolError(f"MIG_DATA_READ of {request.size} bytes")
        if request.argsz < MigData.STRUCT.size + request.size:
            raise RemoteProtocolError(f"MIG_DATA_READ: argsz {request.argsz} has no room")
        data = self._declared().read(request.size)
        # libvfio-user quirk: its client takes a reply that is shorter than what it asked for as a
        # lost connection, so the message is as long as that; argsz and size say what counts.
        reply = MigData(MigData.STRUCT.size + len(data), len(data)).pack() + data
        return reply.ljust(MigData.STRUCT.size + request.size, b"\0")

    def write(self, payload: bytes) -> bytes:
        """Take MIG_DATA_WRITE; its reply has no payload."""
        request = self._data_request(payload)
        if len(payload) != MigData.STRUCT.size + request.size:
            raise RemoteProtocolError(f"MIG_DATA_WRITE of {request.size} in {len(payload)} bytes")
        self._declared().write(payload[MigData.STRUCT.size :])
        return b""

    def _declared(self) -> Migration:
        if self._migration is None:
            raise RemoteProtocolError("the device declares no state", errno.ENOTSUP)
        return self._migration

    def _data_request(self, payload: bytes) -> MigData:
        self._declared()
        if len(payload) < MigData.STRUCT.size:
            raise RemoteProtocolError("migration data is cut short")
        request = MigData.unpack(payload)
        if request.argsz < MigData.STRUCT.size or request.size > wire.MAX_DATA_XFER:
            raise RemoteProtocolError(f"migration data: argsz {request.argsz}, {request.size}")
        return request


def _migrate(migration: Migration, feature: Feature, is_set: bool, data: bytes) -> bytes:
    if feature is Feature.MIGRATION:
        return wire.MIGRATION_FLAGS.pack(wire.MigrationFlag.STOP_COPY | wire.MigrationFlag.PRE_COPY)
    if not is_set:
        return wire.MigState(migration.state, -1).pack()
    if len(data) != wire.MigState.STRUCT.size:
        raise RemoteProtocolError(f"MIG_DEVICE_STATE of {len(data)} bytes")
    migration.set(wire.MigState.unpack(data).device_state)
    return data
