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
from dma_rehearsal.device.pci.acs import AccessControlServices, Acs
from dma_rehearsal.device.pci.aer import AdvancedErrorReporting
from dma_rehearsal.device.pci.atomics import AtomicOps
from dma_rehearsal.device.pci.ats import AddressTranslationServices
from dma_rehearsal.device.pci.config import (
    Capability,
    Command,
    ExtendedCapability,
    Identity,
    PowerState,
)
from dma_rehearsal.device.pci.dvsec import Dvsec
from dma_rehearsal.device.pci.ltr import LatencyToleranceReporting
from dma_rehearsal.device.pci.pasid import ProcessAddressSpaceId
from dma_rehearsal.device.pci.pri import PageRequest
from dma_rehearsal.device.pci.resizable_bar import ResizableBar
from dma_rehearsal.device.pci.serial_number import DeviceSerialNumber
from dma_rehearsal.device.pci.sriov import SingleRootIoVirtualization
from dma_rehearsal.device.pci.vendor import VendorSpecific
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import TooMuchPosted
from dma_rehearsal.device.vfio_user.watches import Watch

__all__ = [
    "Access",
    "AccessControlServices",
    "Acs",
    "AddressTranslationServices",
    "AdvancedErrorReporting",
    "AtomicOps",
    "Attributes",
    "Bars",
    "CallbackBar",
    "Capability",
    "Command",
    "DeviceSerialNumber",
    "DmaRefused",
    "Dvsec",
    "Endpoint",
    "ExtendedCapability",
    "Fabric",
    "Field",
    "Fields",
    "Flag",
    "Identity",
    "IoBar",
    "LatencyToleranceReporting",
    "MemoryBar",
    "MixedBar",
    "MsixBars",
    "MultiFunction",
    "OnlyByMessage",
    "PageRequest",
    "PowerState",
    "ProcessAddressSpaceId",
    "Register",
    "RegisterArray",
    "RegisterBar",
    "RegisterFile",
    "Registers",
    "ResizableBar",
    "Rom",
    "Running",
    "SharedBar",
    "SingleRootIoVirtualization",
    "StatePart",
    "TooManyRunning",
    "TooMuchPosted",
    "Trace",
    "Trigger",
    "VendorSpecific",
    "Watch",
]
