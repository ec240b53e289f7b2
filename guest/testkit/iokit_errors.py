# SPDX-License-Identifier: Apache-2.0
"""The outcome of an IOKit call, as a code or as the error."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.guest.iobuffer import IOReturn, IOReturnError


def refusal(call: Callable[[], object]) -> IOReturnError | None:
    """Return the error that a call raises."""
    try:
        call()
    except IOReturnError as error:
        return error
    return None


def code_of(call: Callable[..., object], *arguments: object) -> IOReturn:
    """Return the code that a call ends with, kIOReturnSuccess when it returns."""
    try:
        call(*arguments)
    except IOReturnError as error:
        return error.code
    return IOReturn.kIOReturnSuccess
