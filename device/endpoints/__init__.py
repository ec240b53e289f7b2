# SPDX-License-Identifier: Apache-2.0
"""The names that a device model is written with: `Endpoint`, `Register` and the rest."""

from dma_rehearsal.device.endpoints.bars import (
    Bars,
    CallbackBar,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    RegisterBar,
    Registers,
    Rom,
    SharedBar,
)
from dma_rehearsal.device.endpoints.coroutines import Running, TooManyRunning
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused, OnlyByMessage
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.multi_function import MultiFunction
from dma_rehearsal.device.endpoints.registers import (
    Access,
    Field,
    Fields,
    Flag,
    Register,
    RegisterArray,
    RegisterFile,
    Trigger,
)
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.pci.config import (
    Capability,
    Command,
    ExtendedCapability,
    Identity,
    PowerState,
)
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import TooMuchPosted
from dma_rehearsal.device.vfio_user.watches import Watch

__all__ = [
    "Access",
    "Attributes",
    "Bars",
    "CallbackBar",
    "Capability",
    "Command",
    "DmaRefused",
    "Endpoint",
    "ExtendedCapability",
    "Fabric",
    "Field",
    "Fields",
    "Flag",
    "Identity",
    "IoBar",
    "MemoryBar",
    "MixedBar",
    "MsixBars",
    "MultiFunction",
    "OnlyByMessage",
    "PowerState",
    "Register",
    "RegisterArray",
    "RegisterBar",
    "RegisterFile",
    "Registers",
    "Rom",
    "Running",
    "SharedBar",
    "StatePart",
    "TooManyRunning",
    "TooMuchPosted",
    "Trace",
    "Trigger",
    "Watch",
]
