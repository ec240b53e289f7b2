# SPDX-License-Identifier: Apache-2.0
"""Register layouts and record formats that the host's devices and the guest's code agree on.

This is the one definition: each guest gets these files, and no others of ``device/``. Standard
library only.

`mailbox` and `driver_reports` are not imported here: a guest boots without them.

All registers are 32-bit little-endian; 64-bit values are a LO and a HI register.
"""

from dma_rehearsal.device.layout.cache import CACHE_LINE_SIZES as CACHE_LINE_SIZES
from dma_rehearsal.device.layout.cache import CACHE_MAX_OPERATION as CACHE_MAX_OPERATION
from dma_rehearsal.device.layout.cache import CACHE_REPORTS_MAX as CACHE_REPORTS_MAX
from dma_rehearsal.device.layout.cache import CacheCommand as CacheCommand
from dma_rehearsal.device.layout.cache import CacheDirection as CacheDirection
from dma_rehearsal.device.layout.cache import CacheMissingCall as CacheMissingCall
from dma_rehearsal.device.layout.cache import CacheModelMode as CacheModelMode
from dma_rehearsal.device.layout.cache import CacheOperation as CacheOperation
from dma_rehearsal.device.layout.cache import CacheReport as CacheReport
from dma_rehearsal.device.layout.cache import CacheReportKind as CacheReportKind
from dma_rehearsal.device.layout.cache import CacheStatus as CacheStatus
from dma_rehearsal.device.layout.dma import DmaAttribute as DmaAttribute
from dma_rehearsal.device.layout.dma import DmaDirection as DmaDirection
from dma_rehearsal.device.layout.dma import DmaReason as DmaReason
from dma_rehearsal.device.layout.exerciser import BUFFER_SIZE_DEFAULT as BUFFER_SIZE_DEFAULT
from dma_rehearsal.device.layout.exerciser import CONTROL_SIZE as CONTROL_SIZE
from dma_rehearsal.device.layout.exerciser import DMASTATUS_CLEAR as DMASTATUS_CLEAR
from dma_rehearsal.device.layout.exerciser import DMASTATUS_CODE as DMASTATUS_CODE
from dma_rehearsal.device.layout.exerciser import ERROR_DVSEC_ID as ERROR_DVSEC_ID
from dma_rehearsal.device.layout.exerciser import ERROR_DVSEC_VENDOR as ERROR_DVSEC_VENDOR
from dma_rehearsal.device.layout.exerciser import EXERCISER_CLASS_CODE as EXERCISER_CLASS_CODE
from dma_rehearsal.device.layout.exerciser import EXERCISER_DEVICE_ID as EXERCISER_DEVICE_ID
from dma_rehearsal.device.layout.exerciser import EXERCISER_SUBSYSTEM_ID as EXERCISER_SUBSYSTEM_ID
from dma_rehearsal.device.layout.exerciser import (
    EXERCISER_SUBSYSTEM_VENDOR_ID as EXERCISER_SUBSYSTEM_VENDOR_ID,
)
from dma_rehearsal.device.layout.exerciser import EXERCISER_VENDOR_ID as EXERCISER_VENDOR_ID
from dma_rehearsal.device.layout.exerciser import EXTENSION_SIZE as EXTENSION_SIZE
from dma_rehearsal.device.layout.exerciser import INTXCTL_ASSERT as INTXCTL_ASSERT
from dma_rehearsal.device.layout.exerciser import MSICTL_TRIGGER as MSICTL_TRIGGER
from dma_rehearsal.device.layout.exerciser import MSICTL_VECTOR as MSICTL_VECTOR
from dma_rehearsal.device.layout.exerciser import PASID_MASK as PASID_MASK
from dma_rehearsal.device.layout.exerciser import RID_MASK as RID_MASK
from dma_rehearsal.device.layout.exerciser import RID_VALID as RID_VALID
from dma_rehearsal.device.layout.exerciser import TXN_ENABLE as TXN_ENABLE
from dma_rehearsal.device.layout.exerciser import TXN_SIZE_SHIFT as TXN_SIZE_SHIFT
from dma_rehearsal.device.layout.exerciser import TXN_TRACE_CAPACITY as TXN_TRACE_CAPACITY
from dma_rehearsal.device.layout.exerciser import TXN_TRACE_EMPTY as TXN_TRACE_EMPTY
from dma_rehearsal.device.layout.exerciser import TXN_WORDS as TXN_WORDS
from dma_rehearsal.device.layout.exerciser import VECTORS_DEFAULT as VECTORS_DEFAULT
from dma_rehearsal.device.layout.exerciser import AddressType as AddressType
from dma_rehearsal.device.layout.exerciser import AtsCtl as AtsCtl
from dma_rehearsal.device.layout.exerciser import AtsPerm as AtsPerm
from dma_rehearsal.device.layout.exerciser import DmaCtl as DmaCtl
from dma_rehearsal.device.layout.exerciser import DmaStatus as DmaStatus
from dma_rehearsal.device.layout.exerciser import ErrorInjection as ErrorInjection
from dma_rehearsal.device.layout.exerciser import ExerciserBar as ExerciserBar
from dma_rehearsal.device.layout.exerciser import Reg as Reg
from dma_rehearsal.device.layout.exerciser import TxnAttribute as TxnAttribute
from dma_rehearsal.device.layout.extension import EXT_MAGIC as EXT_MAGIC
from dma_rehearsal.device.layout.extension import EXT_VERSION as EXT_VERSION
from dma_rehearsal.device.layout.extension import HOLD_ON as HOLD_ON
from dma_rehearsal.device.layout.extension import PRP_PAGE as PRP_PAGE
from dma_rehearsal.device.layout.extension import RECORD_CAPACITY as RECORD_CAPACITY
from dma_rehearsal.device.layout.extension import RECORD_FIELD_VALID as RECORD_FIELD_VALID
from dma_rehearsal.device.layout.extension import DmaRule as DmaRule
from dma_rehearsal.device.layout.extension import Ext as Ext
from dma_rehearsal.device.layout.extension import ExtFeature as ExtFeature
from dma_rehearsal.device.layout.extension import ProfileFlag as ProfileFlag
from dma_rehearsal.device.layout.platform import HOLD_POLLS as HOLD_POLLS
from dma_rehearsal.device.layout.platform import PLATFORM_CLASS_CODE as PLATFORM_CLASS_CODE
from dma_rehearsal.device.layout.platform import PLATFORM_CONTROL_SIZE as PLATFORM_CONTROL_SIZE
from dma_rehearsal.device.layout.platform import PLATFORM_DEVICE_ID as PLATFORM_DEVICE_ID
from dma_rehearsal.device.layout.platform import PLATFORM_MAGIC as PLATFORM_MAGIC
from dma_rehearsal.device.layout.platform import PLATFORM_RESULTS_SIZE as PLATFORM_RESULTS_SIZE
from dma_rehearsal.device.layout.platform import PLATFORM_VENDOR_ID as PLATFORM_VENDOR_ID
from dma_rehearsal.device.layout.platform import PLATFORM_VERSION as PLATFORM_VERSION
from dma_rehearsal.device.layout.platform import REFUSED_CAPACITY as REFUSED_CAPACITY
from dma_rehearsal.device.layout.platform import Plat as Plat
from dma_rehearsal.device.layout.platform import PlatformBar as PlatformBar
from dma_rehearsal.device.layout.platform import PlatformFeature as PlatformFeature
from dma_rehearsal.device.layout.protection import FAULT_CAPACITY as FAULT_CAPACITY
from dma_rehearsal.device.layout.protection import FUNCTION_CAPACITY as FUNCTION_CAPACITY
from dma_rehearsal.device.layout.protection import FUNCTION_END as FUNCTION_END
from dma_rehearsal.device.layout.protection import FUNCTION_NAMED as FUNCTION_NAMED
from dma_rehearsal.device.layout.protection import GRANT_CAPACITY as GRANT_CAPACITY
from dma_rehearsal.device.layout.protection import GrantDirection as GrantDirection
from dma_rehearsal.device.layout.protection import ProtectionCommand as ProtectionCommand
from dma_rehearsal.device.layout.protection import ProtectionStatus as ProtectionStatus
from dma_rehearsal.device.layout.protection import function_address as function_address
from dma_rehearsal.device.layout.protection import function_word as function_word
from dma_rehearsal.device.layout.protection import requester_id_of as requester_id_of
from dma_rehearsal.device.layout.ring import RING_BYTES_CACHED_LEAST as RING_BYTES_CACHED_LEAST
from dma_rehearsal.device.layout.ring import RING_BYTES_CACHED_MAX as RING_BYTES_CACHED_MAX
from dma_rehearsal.device.layout.ring import RING_BYTES_MAX as RING_BYTES_MAX
from dma_rehearsal.device.layout.ring import RING_ENABLE as RING_ENABLE
from dma_rehearsal.device.layout.ring import RING_REFUSED_INDEX as RING_REFUSED_INDEX
from dma_rehearsal.device.layout.ring import RING_REFUSED_REASON_SHIFT as RING_REFUSED_REASON_SHIFT
from dma_rehearsal.device.layout.ring import RING_SIZE_MAX as RING_SIZE_MAX
from dma_rehearsal.device.layout.ring import RING_SIZE_MIN as RING_SIZE_MIN
from dma_rehearsal.device.layout.ring import RingDescriptor as RingDescriptor
from dma_rehearsal.device.layout.ring import RingFlag as RingFlag
from dma_rehearsal.device.layout.ring import RingStatus as RingStatus
from dma_rehearsal.device.layout.witness import MTRR_FIXED_NAMES as MTRR_FIXED_NAMES
from dma_rehearsal.device.layout.witness import MTRR_MAX as MTRR_MAX
from dma_rehearsal.device.layout.witness import WITNESS_MAX_PAGES as WITNESS_MAX_PAGES
from dma_rehearsal.device.layout.witness import WITNESS_RUN_MAX as WITNESS_RUN_MAX
from dma_rehearsal.device.layout.witness import WITNESS_TRIGGER as WITNESS_TRIGGER
from dma_rehearsal.device.layout.witness import MemoryType as MemoryType
from dma_rehearsal.device.layout.witness import WitnessRun as WitnessRun
from dma_rehearsal.device.layout.witness import WitnessStatus as WitnessStatus
