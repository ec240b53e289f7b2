# SPDX-License-Identifier: Apache-2.0
"""Sets and clears faults of devices that run: their objects become of another class and back."""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.device import faults
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults import IMPLEMENTATIONS, SOUND, DeviceFault
from dma_rehearsal.device.platform.platform import Platform


class FaultError(Exception):
    """A fault that cannot be set; the message says why, and nothing has changed.

    ``hint`` says what to do next, where that is known.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FaultInjector:
    """The faults of some endpoints and their platform, which were made sound; one at a time.

    What is under way ends as it began: set and clear while no DMA is in flight. A fault of the
    cache model acts from the model's next configuration on.
    """

    def __init__(self, endpoints: Sequence[Endpoint], platform: Platform) -> None:
        self._endpoints, self._platform = endpoints, platform
        self._kinds = [type(each) for each in endpoints]

    def set(self, name: str | None) -> None:
        """Set the fault of that name in place of the one that is set; None: none of them.

        FaultError when there is none of that name, or these endpoints cannot have it.
        """
        if name is not None and name not in IMPLEMENTATIONS:
            raise FaultError(
                f"there is no fault {name!r}: python -m dma_rehearsal.device --list-faults"
            )
        try:
            self.apply(SOUND if name is None else IMPLEMENTATIONS[name])
        except FaultError as error:
            raise FaultError(f"the fault {name} {error}", error.hint) from None

    def apply(self, fault: DeviceFault) -> None:
        """Have ``fault`` act in place of what was put on before. FaultError as in `set`."""
        if fault.exerciser is not Exerciser:
            for kind in self._kinds:
                if kind is not Exerciser:
                    raise FaultError(
                        f"is one of the exerciser's, and {kind.__name__} is another",
                        f"choose a fault of the bus or the platform, or leave {kind.__name__} out",
                    )
        for endpoint, kind in zip(self._endpoints, self._kinds, strict=True):
            _become(endpoint, kind if fault.exerciser is Exerciser else fault.exerciser)
        self._platform.use(fault.platform())


def _become(endpoint: Endpoint, kind: type[Endpoint]) -> None:
    before = type(endpoint)
    if kind is before:
        return
    # A fault keeps what it keeps in an object under names that its class has as well.
    for faulty in before.__mro__:
        if faulty.__module__.startswith(f"{faults.__name__}."):
            for name in vars(faulty):
                vars(endpoint).pop(name, None)
    endpoint.__class__ = kind
    for content in endpoint.contents.values():
        if isinstance(content, RegisterFile):
            content.rebind()
