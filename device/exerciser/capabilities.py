# SPDX-License-Identifier: Apache-2.0
"""Capabilities that a board's exerciser may have or not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.error_injection import ErrorInjector
from dma_rehearsal.device.pci import ats, pasid
from dma_rehearsal.device.pci.aer import AdvancedErrorReporting
from dma_rehearsal.device.pci.ats import AddressTranslationServices
from dma_rehearsal.device.pci.pasid import ProcessAddressSpaceId
from dma_rehearsal.device.pci.pri import PageRequest


class OptionalCapability(Enum):
    """The names of those that can be chosen."""

    ATS = "ats"  # with PRI
    PASID = "pasid"
    AER = "aer"
    ERROR_INJECTION = "error-injection"


DEFAULT_CAPABILITIES = (OptionalCapability.ATS,)


class OptionalCapabilities:
    """Adds the ``chosen`` ones to a function, and says which are enabled.

    ``ats_control`` is called with ATS' Enable when software wrote its control register.
    """

    def __init__(
        self,
        function: Endpoint,
        chosen: Collection[OptionalCapability],
        ats_control: Callable[[bool], None],
    ) -> None:
        self._config = function.config
        self._ats = self._pasid = None
        if OptionalCapability.AER in chosen:
            function.add_capability(AdvancedErrorReporting())
        if OptionalCapability.ATS in chosen:
            self._ats = function.add_capability(AddressTranslationServices(ats_control))
            function.add_capability(PageRequest())
        if OptionalCapability.PASID in chosen:
            self._pasid = function.add_capability(ProcessAddressSpaceId())
        self.injector = (
            ErrorInjector(function) if OptionalCapability.ERROR_INJECTION in chosen else None
        )

    @property
    def ats_enabled(self) -> bool:
        """Return whether software enabled ATS."""
        return self._ats is not None and ats.enabled(self._config, self._ats)

    @property
    def pasid_enabled(self) -> bool:
        """Return whether software enabled PASID."""
        return self._pasid is not None and pasid.enabled(self._config, self._pasid)
