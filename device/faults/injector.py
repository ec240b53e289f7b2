# SPDX-License-Identifier: Apache-2.0
"""Sets and clears faults of running devices: each is given other strategies, or its sound ones."""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.device.endpoints.endpoint import Endpoint
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

    def set(self, name: str | None) -> None:
        """Set the fault of that name instead of the one that is set; None clears it.

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
        """Have ``fault`` act instead of the one before. FaultError as in `set`."""
        if fault.exerciser is not None:
            for each in self._endpoints:
                if type(each) is not Exerciser:
                    kind = type(each).__name__
                    raise FaultError(
                        f"is one of the exerciser's, and the endpoint is {kind}",
                        f"choose a fault of the bus or the platform, or leave {kind} out",
                    )
        for each in self._endpoints:
            if isinstance(each, Exerciser):
                each.behaviour = each if fault.exerciser is None else fault.exerciser(each)
        self._platform.use(fault.platform())
