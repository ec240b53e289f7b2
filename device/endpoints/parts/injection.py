"""The error-injection DVSEC: a function that goes wrong when software asks for it. Modelled.

Arm's documents do not list the error codes. Here 0 to 7 are AER's correctable errors and those from
8 on its uncorrectable ones, each in the order of their bits; others do nothing.
"""

from __future__ import annotations

from device.endpoints.base import Endpoint
from device.endpoints.registers import Access, Field, Fields, Flag
from device.layout import ERROR_DVSEC_ID, ERROR_DVSEC_VENDOR, ErrorInjection
from device.pci import aer
from device.pci.aer import Correctable, Uncorrectable
from device.pci.dvsec import Dvsec, control
from device.pci.pcie import DeviceStatus

_ERRORS: tuple[Correctable | Uncorrectable, ...] = (*Correctable, *Uncorrectable)


class InjectionControl(Fields):
    """The DVSEC's control register."""

    corrupt_dma = Flag(ErrorInjection.CORRUPT_DMA)
    inject = Flag(ErrorInjection.INJECT, Access.SELF_CLEARING)
    poison = Flag(ErrorInjection.POISON)
    code = Field(ErrorInjection.CODE_MASK)
    fatal = Flag(ErrorInjection.FATAL)


class ErrorInjector:
    """Adds the DVSEC to a function. ``aer``: where its AER capability begins, if it has one."""

    def __init__(self, function: Endpoint, aer_start: int | None) -> None:
        self._function, self._aer = function, aer_start
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
        asked = InjectionControl(value)
        if not asked.inject or asked.code >= len(_ERRORS):
            return
        error = _ERRORS[asked.code]
        bit = DeviceStatus.CORRECTABLE_ERROR
        if isinstance(error, Uncorrectable):
            bit = DeviceStatus.FATAL_ERROR if asked.fatal else DeviceStatus.NON_FATAL_ERROR
        self._function.set_device_status(bit)
        if self._aer is not None:
            aer.report(self._function.config, self._aer, error)
        self._function.trace.event(self._function.name, "error", code=asked.code, error=error.name)

    def corrupted(self, data: bytes) -> bytes:
        """Return what a DMA carries: one bit is wrong while software wants that."""
        if not self.control.corrupt_dma or not data:
            return data
        return bytes((data[0] ^ 1,)) + data[1:]
