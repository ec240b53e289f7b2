# SPDX-License-Identifier: Apache-2.0
"""The request log's registers: how many requests there were, which were refused, and marks."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.endpoints.request_history import RefusedRequest
from dma_rehearsal.device.layout import REFUSED_CAPACITY, Plat

_Field = Callable[[RefusedRequest], int]
_FIELDS: dict[Plat, _Field] = {
    Plat.REFUSED_SEQUENCE: lambda refused: refused.sequence,
    Plat.REFUSED_REASON: lambda refused: refused.reason,
    Plat.REFUSED_DIRECTION: lambda refused: refused.direction,
    Plat.REFUSED_ADDRESS_LO: lambda refused: refused.address,
    Plat.REFUSED_ADDRESS_HI: lambda refused: refused.address >> 32,
    Plat.REFUSED_LENGTH_LO: lambda refused: refused.length,
    Plat.REFUSED_LENGTH_HI: lambda refused: refused.length >> 32,
    Plat.REFUSED_BYTE_LO: lambda refused: refused.byte,
    Plat.REFUSED_BYTE_HI: lambda refused: refused.byte >> 32,
}


class RequestRegisters:
    """Shows the interconnect's requests. ``event`` writes to the trace: a name and facts."""

    def __init__(
        self, control: RegisterFile, interconnect: Interconnect, event: Callable[..., None]
    ) -> None:
        self._control, self._interconnect, self._event = control, interconnect, event
        control.add(
            (
                Register(Plat.REQUEST_COUNT),
                Register(Plat.REFUSED_CAPACITY, reset=REFUSED_CAPACITY),
                Register(Plat.REFUSED_COUNT),
                Register(Plat.REFUSED_SELECT, Access.RW),
                Register(Plat.REFUSED_VALID),
                *(Register(each, read=self._reader(field)) for each, field in _FIELDS.items()),
                Register(Plat.MARK, Access.RW),
            ),
            self,
        )

    def reset(self) -> None:
        """Forget what was refused; the count of all requests goes on."""
        with self._interconnect.lock:
            self._interconnect.refusals.clear()

    def write_mark(self, value: int) -> None:
        """Put a number of software's into the trace, between the events that it came between."""
        with self._interconnect.lock:
            self._event("mark", number=value)

    def read_request_count(self) -> int:
        """Return the sequence number of the newest request."""
        with self._interconnect.lock:
            return self._interconnect.sequence

    def read_refused_count(self) -> int:
        """Return how many requests were refused since reset."""
        with self._interconnect.lock:
            return self._interconnect.refusals.count

    def read_refused_valid(self) -> int:
        """Return 1 when the selected refusal is held."""
        return int(self._selected() is not None)

    def _selected(self) -> RefusedRequest | None:
        with self._interconnect.lock:
            return self._interconnect.refusals.get(self._control[Plat.REFUSED_SELECT])

    def _reader(self, field: _Field) -> Callable[[], int]:
        def read() -> int:
            refused = self._selected()
            return 0 if refused is None else field(refused)

        return read
