# SPDX-License-Identifier: Apache-2.0
"""A profile's limits on the requests of a device that knows nothing of profiles."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.dma import Ranges
from dma_rehearsal.device.endpoints.registers import RegisterFile
from dma_rehearsal.device.exerciser.constraints import Constraints
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.device.exerciser.transfer import Segment


class RequestLimits:
    """The limits as the exerciser has them at reset; no register can change them.

    ValueError for a profile that says more than limits: ``sloppy``, and ``coherent = false``. Only
    the device's own model can do what these say.
    """

    def __init__(self, profile: Profile) -> None:
        if profile.sloppy:
            raise ValueError(f"profile {profile.name} is sloppy, and only the exerciser can be so")
        if not profile.coherent:
            raise ValueError(
                f"profile {profile.name} is not coherent, and an endpoint says that by its own "
                "property coherent"
            )
        self._constraints = Constraints(RegisterFile(), profile)

    def check(self, ranges: Ranges) -> None:
        """Raise DmaRefused for the first limit that the ranges of one transfer break."""
        if ranges:
            self._constraints.check([Segment(address, length, 0) for address, length in ranges])
