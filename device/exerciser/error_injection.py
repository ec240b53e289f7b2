# SPDX-License-Identifier: Apache-2.0
"""The error-injection DVSEC: a function that goes wrong when software asks for it. Modelled.

Source: Arm's PCIe error injection document. Its error codes are AER's errors in the order of their
bits: 0 to 7 the correctable ones, 8 to 0x18 the uncorrectable ones. Others do nothing.
"""

from __future__ import annotations

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.registers import Access, Field, Fields, Flag
from dma_rehearsal.device.layout import ERROR_DVSEC_ID, ERROR_DVSEC_VENDOR, ErrorInjection
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.dvsec import Dvsec, control

_ERRORS: tuple[Correctable | Uncorrectable, ...] = (*Correctable, *Uncorrectable)


class InjectionControl(Fields):
    """The DVSEC's control register."""

    corrupt_dma = Flag(ErrorInjection.CORRUPT_DMA)
    inject = Flag(ErrorInjection.INJECT, Access.SELF_CLEARING)
    poison = Flag(ErrorInjection.POISON)
    code = Field(ErrorInjection.CODE_MASK)
    fatal = Flag(ErrorInjection.FATAL)


class ErrorInjector:
    """Adds the DVSEC to a function."""

    def __init__(self, function: Endpoint) -> None:
        self._function = function
        fields = InjectionControl.fields().values()
        self._start = function.add_capability(
            Dvsec(
                ERROR_DVSEC_VENDOR,
                ERROR_DVSEC_ID,
                writable=sum(each.mask for each in fields),
                commands=int(ErrorInjection.INJECT),
                on_write=self._written,
            )
        )

    @property
    def control(self) -> InjectionControl:
        """Return the control register."""
        return InjectionControl(control(self._function.config, self._start))

    def _written(self, value: int) -> None:
        if InjectionControl(value).inject:
            self.inject(self._function)

    def inject(self, function: Function) -> None:
        """Have a function detect the error that is configured; nothing for an invalid code.

        The DVSEC's severity is for a function without AER, whose own severities decide.
        """
        asked = self.control
        if asked.code >= len(_ERRORS):
            return
        error = _ERRORS[asked.code]
        severity = function.detect_error(error, fatal=asked.fatal)
        function.trace.event(
            function.name, "error", code=asked.code, error=error.name, severity=severity.name
        )
