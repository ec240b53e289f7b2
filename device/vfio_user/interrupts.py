# SPDX-License-Identifier: Apache-2.0
"""DEVICE_SET_IRQS: which eventfd stands for which interrupt.

Theory of operation. ``MASKABLE`` are the indexes that take MASK and UNMASK, as DEVICE_GET_IRQ_INFO
says. Nothing waits here. A message that finds its vector masked, or without an eventfd, is the
model's to keep: the server calls it when the message may go. INTx is a level: its unmask asks for
the line anew; and it is AUTOMASKED, for the model signals it once until that unmask. An eventfd for
MASK or UNMASK is not offered: vfio-user takes it for the server's event, VFIO for one of the
client's.
"""

from __future__ import annotations

import os

from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.eventfd import is_eventfd, signaller
from dma_rehearsal.device.vfio_user.messages import Irq, SetIrqs, SetIrqsFlag
from dma_rehearsal.device.vfio_user.model import DeviceModel

_DATA = SetIrqsFlag.DATA_NONE | SetIrqsFlag.DATA_BOOL | SetIrqsFlag.DATA_EVENTFD
_ACTION = SetIrqsFlag.ACTION_MASK | SetIrqsFlag.ACTION_UNMASK | SetIrqsFlag.ACTION_TRIGGER
_ALL_FLAGS = int(_DATA | _ACTION)  # an int: ~ of a flag drops the bits that have no name
MASKABLE = frozenset({Irq.INTX, Irq.MSI, Irq.MSIX})
_MESSAGES = frozenset({Irq.MSI, Irq.MSIX})


class Interrupts:
    """The eventfds and masks of one client. It owns the descriptors that it keeps."""

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        self._signal = signaller().signal
        self._eventfds: dict[tuple[int, int], int] = {}
        self._masked: set[tuple[int, int]] = set()

    def set(self, request: SetIrqs, data: bytes | memoryview, descriptors: list[int]) -> None:
        """Apply a request. Descriptors that are kept are taken out of the list.

        RemoteProtocolError (EINVAL) for an interrupt that does not exist, and for flags, counts,
        data or descriptors that do not go together, or a descriptor of another kind, on which a
        write could wait for the client.
        """
        flags = SetIrqsFlag(request.flags & _ALL_FLAGS)
        kind, action = flags & _DATA, flags & _ACTION
        if request.flags & ~_ALL_FLAGS or kind.bit_count() != 1 or action.bit_count() != 1:
            raise RemoteProtocolError(f"SET_IRQS flags {request.flags:#x}")
        if action != SetIrqsFlag.ACTION_TRIGGER and request.index not in MASKABLE:
            raise RemoteProtocolError(f"SET_IRQS index {request.index} cannot be masked")
        # The one empty range that means something turns the whole index off.
        whole = kind == SetIrqsFlag.DATA_NONE and action == SetIrqsFlag.ACTION_TRIGGER
        if not request.count and (request.start or not whole):
            raise RemoteProtocolError(f"SET_IRQS flags {request.flags:#x} with no interrupt")
        available = self._model.irq_count(request.index)
        if request.start >= available or request.count > available - request.start:
            raise RemoteProtocolError(
                f"SET_IRQS index {request.index}: {request.count} from {request.start} "
                f"of {available}"
            )
        if kind == SetIrqsFlag.DATA_BOOL and len(data) != request.count:
            raise RemoteProtocolError(f"SET_IRQS: {len(data)} bytes for {request.count} interrupts")
        if kind != SetIrqsFlag.DATA_EVENTFD and descriptors:
            raise RemoteProtocolError("SET_IRQS: descriptors without DATA_EVENTFD")
        if kind == SetIrqsFlag.DATA_EVENTFD and len(descriptors) not in (0, request.count):
            raise RemoteProtocolError(
                f"SET_IRQS: {len(descriptors)} descriptors for {request.count} interrupts"
            )
        if not all(map(is_eventfd, descriptors)):
            raise RemoteProtocolError("SET_IRQS: a descriptor is not an eventfd")
        if action == SetIrqsFlag.ACTION_TRIGGER:
            self._trigger_action(request, kind, data, descriptors)
        else:
            self._mask_action(request, kind, action, data)

    def _trigger_action(
        self, request: SetIrqs, kind: int, data: bytes | memoryview, descriptors: list[int]
    ) -> None:
        if kind == SetIrqsFlag.DATA_NONE and request.count == 0:
            self.disable(request.index)
            self._line_goes_another_way(request.index)
            return
        keys = [(request.index, request.start + i) for i in range(request.count)]
        if kind == SetIrqsFlag.DATA_EVENTFD:
            for position, key in enumerate(keys):
                old = self._eventfds.pop(key, None)
                if old is not None:
                    os.close(old)
                if descriptors:
                    self._eventfds[key] = descriptors[position]
            descriptors.clear()
            self._line_goes_another_way(request.index)
            for key in keys:
                self._may_go(*key)
            return
        for position, key in enumerate(keys):
            if kind == SetIrqsFlag.DATA_NONE or data[position]:
                self.trigger(*key)

    def _mask_action(
        self, request: SetIrqs, kind: int, action: int, data: bytes | memoryview
    ) -> None:
        if kind == SetIrqsFlag.DATA_EVENTFD:
            raise RemoteProtocolError("SET_IRQS: masks by eventfd are not offered")
        for position in range(request.count):
            if kind == SetIrqsFlag.DATA_BOOL and not data[position]:
                continue
            key = (request.index, request.start + position)
            if action == SetIrqsFlag.ACTION_MASK:
                self._masked.add(key)
            else:
                # QEMU's end of interrupt of INTx comes as an unmask (index 0, flags 0x11).
                self._masked.discard(key)
                if request.index == Irq.INTX:
                    self._model.end_of_interrupt()
                self._may_go(*key)

    def _line_goes_another_way(self, index: int) -> None:
        """A client that changes INTx's eventfd forgets what the old one said; the level remains."""
        if index == Irq.INTX:
            self._model.end_of_interrupt()

    def _may_go(self, index: int, subindex: int) -> None:
        """Let the model send a message that it keeps, where it would be signalled now."""
        if index in _MESSAGES and self.armed(index, subindex):
            self._model.message_unmasked(index, subindex)

    def armed(self, index: int, subindex: int) -> bool:
        """Return whether an interrupt has an eventfd, and no mask."""
        key = (index, subindex)
        return key in self._eventfds and key not in self._masked

    def trigger(self, index: int, subindex: int) -> bool:
        """Signal an interrupt's eventfd; return whether that was done. Nothing is kept."""
        key = (index, subindex)
        descriptor = self._eventfds.get(key)
        if descriptor is None or key in self._masked:
            return False
        return self._signal(descriptor)

    def disable(self, index: int) -> None:
        """Forget all eventfds and masks of one IRQ index."""
        for key in [key for key in self._eventfds if key[0] == index]:
            os.close(self._eventfds.pop(key))
        self._masked = {key for key in self._masked if key[0] != index}

    def close(self) -> None:
        """Close every descriptor."""
        for descriptor in self._eventfds.values():
            os.close(descriptor)
        self._eventfds.clear()
        self._masked.clear()
