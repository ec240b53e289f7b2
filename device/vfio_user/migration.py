# SPDX-License-Identifier: Apache-2.0
"""Device state in and out: the specification's states, arcs and data session.

Theory of operation. ``_ARCS`` are the direct transitions (VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
"Direct State Transitions"); any other request is the shortest chain of them whose inner states are
outside the saving group, computed once. A state has a fixed size and is always sent whole, on
entering PRE_COPY and again on entering STOP_COPY, so the one to load is the last that arrived.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import DeviceState

MAX_STATE = 1 << 28
_SAVING = frozenset({DeviceState.PRE_COPY, DeviceState.STOP_COPY})
_RUNNING = frozenset({DeviceState.RUNNING, DeviceState.PRE_COPY})
_ARCS: dict[DeviceState, tuple[DeviceState, ...]] = {
    DeviceState.RUNNING: (DeviceState.STOP, DeviceState.PRE_COPY),
    DeviceState.STOP: (DeviceState.RUNNING, DeviceState.STOP_COPY, DeviceState.RESUMING),
    DeviceState.STOP_COPY: (DeviceState.STOP,),
    DeviceState.RESUMING: (DeviceState.STOP,),
    DeviceState.PRE_COPY: (DeviceState.RUNNING, DeviceState.STOP_COPY),
}
_REFUSED = (DeviceState.STOP_COPY, DeviceState.PRE_COPY)


def path(start: DeviceState, end: DeviceState) -> tuple[DeviceState, ...] | None:
    """Return the states to go through, ``end`` last; None when there is no way."""
    if (start, end) == _REFUSED or start not in _ARCS or end not in _ARCS:
        return None
    ways: deque[tuple[DeviceState, ...]] = deque([()])
    seen = {start}
    while ways:
        way = ways.popleft()
        here = way[-1] if way else start
        if here == end:
            return way
        if way and here in _SAVING:
            continue
        for state in _ARCS[here]:
            if state not in seen:
                seen.add(state)
                ways.append((*way, state))
    return None


def _nothing() -> None:
    pass


class Migration:
    """A device's state of ``size`` bytes (at most 256 MiB), and where its migration stands.

    ``save`` returns the state; ``load`` takes one, and raises ValueError for one that is not a
    state of this device; ``stopped`` and ``running`` are called when the device must stand still
    (no DMA, no interrupt, no change of its state) and when it may go on, in the state that they are
    called for. If one of them raises, the state is ERROR. ``drain`` is called before ``stopped``,
    and ends the DMAs under way; it returns False when one waits for the client, and then the client
    is refused the state (EBUSY), and asks again when it has answered.
    """

    def __init__(
        self,
        size: int,
        save: Callable[[], bytes],
        load: Callable[[bytes], None],
        *,
        stopped: Callable[[], None] = _nothing,
        running: Callable[[], None] = _nothing,
        drain: Callable[[], bool] = lambda: True,
    ) -> None:
        if not 0 < size <= MAX_STATE:
            raise ValueError(f"a state of {size} bytes: 1 to {MAX_STATE}")
        self.size = size
        self.state = DeviceState.RUNNING
        self._save, self._load = save, load
        self._stopped, self._running, self._drain = stopped, running, drain
        self._stream = bytearray()
        self._position = 0

    @property
    def standing(self) -> bool:
        """Return whether the device must stand still."""
        return self.state not in _RUNNING

    def reset(self, device_reset: Callable[[], None] = _nothing) -> None:
        """Do ``device_reset`` and return to RUNNING: the only way out of ERROR."""
        stood = self.standing
        self._end_session()
        device_reset()
        self.state = DeviceState.RUNNING
        if stood:
            self._begin(self._running)

    def set(self, wanted: int) -> None:
        """Go to a state. RemoteProtocolError (EINVAL) when there is no way, or it fails on it."""
        states = path(self.state, DeviceState(wanted)) if wanted in set(DeviceState) else None
        if states is None:
            raise RemoteProtocolError(f"no way from {self.state.name} to device state {wanted}")
        for state in states:
            self._step(state)

    def _step(self, state: DeviceState) -> None:
        before, stood = self.state, self.standing
        if (before, state) == (DeviceState.RESUMING, DeviceState.STOP):
            self._load_stream()
        if not stood and state not in _RUNNING and not self._drain():
            raise RemoteProtocolError(
                f"{state.name}: DMAs of the device wait for the client; answer them, and ask again",
                errno.EBUSY,
            )
        self._end_session()
        self.state = state
        if self.standing is not stood:
            self._begin(self._running if stood else self._stopped)
        if state in _SAVING:
            try:
                self._stream += self._saved()
            except Exception:
                # The device stands, or runs, as it did: so without a session.
                self.state = DeviceState.STOP if self.standing else DeviceState.RUNNING
                raise

    def _begin(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            self._fail()
            raise

    def _fail(self) -> None:
        self.state = DeviceState.ERROR
        self._end_session()

    def _saved(self) -> bytes:
        data = self._save()
        if len(data) != self.size:
            raise ValueError(f"the model saved {len(data)} bytes of a state of {self.size}")
        return data

    def _load_stream(self) -> None:
        """Give the device the state that arrived last. One cut short leaves everything as it is."""
        if len(self._stream) < self.size:
            raise RemoteProtocolError(
                f"{len(self._stream)} of {self.size} bytes of a state: it was cut short, or saved "
                "by another version of the device"
            )
        try:
            self._load(bytes(self._stream))
        except ValueError as error:
            self._fail()  # a state that was loaded in part is not valid
            raise RemoteProtocolError(f"the device's state is refused: {error}") from error
        except Exception:
            self._fail()
            raise

    def _end_session(self) -> None:
        self._stream = bytearray()
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes of the state; fewer at its end, then none."""
        if self.state not in _SAVING:
            raise RemoteProtocolError(f"MIG_DATA_READ in {self.state.name}")
        data = bytes(self._stream[self._position : self._position + size])
        self._position += len(data)
        return data

    def write(self, data: bytes) -> None:
        """Take the next bytes of a state; those before the last ``size`` are forgotten."""
        if self.state is not DeviceState.RESUMING:
            raise RemoteProtocolError(f"MIG_DATA_WRITE in {self.state.name}")
        self._stream += data
        del self._stream[: max(0, len(self._stream) - self.size)]
