"""Register layouts and record formats that the host's devices and the guest's code agree on.

This is the one definition. ``guest/layout/`` has the same files, written by ``make generate``, so
that ``guest/`` stands alone on a board; ``make lint`` fails when they differ. Standard library
only.

All registers are 32-bit little-endian; 64-bit values are a LO and a HI register.
"""

from .cache import CACHE_LINE_SIZES as CACHE_LINE_SIZES
from .cache import CACHE_MAX_OPERATION as CACHE_MAX_OPERATION
from .cache import CACHE_REPORTS_MAX as CACHE_REPORTS_MAX
from .cache import CacheCommand as CacheCommand
from .cache import CacheDirection as CacheDirection
from .cache import CacheMissingCall as CacheMissingCall
from .cache import CacheModelMode as CacheModelMode
from .cache import CacheOperation as CacheOperation
from .cache import CacheReport as CacheReport
from .cache import CacheReportKind as CacheReportKind
from .cache import CacheStatus as CacheStatus
from .dma import DmaAttribute as DmaAttribute
from .dma import DmaDirection as DmaDirection
from .dma import DmaReason as DmaReason
from .exerciser import BUFFER_SIZE_DEFAULT as BUFFER_SIZE_DEFAULT
from .exerciser import CONTROL_SIZE as CONTROL_SIZE
from .exerciser import DMASTATUS_CLEAR as DMASTATUS_CLEAR
from .exerciser import DMASTATUS_CODE as DMASTATUS_CODE
from .exerciser import ERROR_DVSEC_ID as ERROR_DVSEC_ID
from .exerciser import ERROR_DVSEC_VENDOR as ERROR_DVSEC_VENDOR
from .exerciser import EXERCISER_CLASS_CODE as EXERCISER_CLASS_CODE
from .exerciser import EXERCISER_DEVICE_ID as EXERCISER_DEVICE_ID
from .exerciser import EXERCISER_SUBSYSTEM_ID as EXERCISER_SUBSYSTEM_ID
from .exerciser import EXERCISER_SUBSYSTEM_VENDOR_ID as EXERCISER_SUBSYSTEM_VENDOR_ID
from .exerciser import EXERCISER_VENDOR_ID as EXERCISER_VENDOR_ID
from .exerciser import EXTENSION_SIZE as EXTENSION_SIZE
from .exerciser import INTXCTL_ASSERT as INTXCTL_ASSERT
from .exerciser import MSICTL_TRIGGER as MSICTL_TRIGGER
from .exerciser import MSICTL_VECTOR as MSICTL_VECTOR
from .exerciser import PASID_MASK as PASID_MASK
from .exerciser import RID_MASK as RID_MASK
from .exerciser import RID_VALID as RID_VALID
from .exerciser import TXN_ENABLE as TXN_ENABLE
from .exerciser import TXN_SIZE_SHIFT as TXN_SIZE_SHIFT
from .exerciser import TXN_TRACE_CAPACITY as TXN_TRACE_CAPACITY
from .exerciser import TXN_TRACE_EMPTY as TXN_TRACE_EMPTY
from .exerciser import TXN_WORDS as TXN_WORDS
from .exerciser import VECTORS_DEFAULT as VECTORS_DEFAULT
from .exerciser import AddressType as AddressType
from .exerciser import AtsCtl as AtsCtl
from .exerciser import AtsPerm as AtsPerm
from .exerciser import DmaCtl as DmaCtl
from .exerciser import DmaStatus as DmaStatus
from .exerciser import ErrorInjection as ErrorInjection
from .exerciser import ExerciserBar as ExerciserBar
from .exerciser import Reg as Reg
from .exerciser import TxnAttribute as TxnAttribute
from .extension import EXT_MAGIC as EXT_MAGIC
from .extension import EXT_VERSION as EXT_VERSION
from .extension import HOLD_ON as HOLD_ON
from .extension import PRP_PAGE as PRP_PAGE
from .extension import RECORD_CAPACITY as RECORD_CAPACITY
from .extension import RECORD_FIELD_VALID as RECORD_FIELD_VALID
from .extension import DmaRule as DmaRule
from .extension import Ext as Ext
from .extension import ExtFeature as ExtFeature
from .extension import ProfileFlag as ProfileFlag
from .platform import PLATFORM_CLASS_CODE as PLATFORM_CLASS_CODE
from .platform import PLATFORM_CONTROL_SIZE as PLATFORM_CONTROL_SIZE
from .platform import PLATFORM_DEVICE_ID as PLATFORM_DEVICE_ID
from .platform import PLATFORM_MAGIC as PLATFORM_MAGIC
from .platform import PLATFORM_RESULTS_SIZE as PLATFORM_RESULTS_SIZE
from .platform import PLATFORM_VENDOR_ID as PLATFORM_VENDOR_ID
from .platform import PLATFORM_VERSION as PLATFORM_VERSION
from .platform import REFUSED_CAPACITY as REFUSED_CAPACITY
from .platform import Plat as Plat
from .platform import PlatformBar as PlatformBar
from .platform import PlatformFeature as PlatformFeature
from .protection import FAULT_CAPACITY as FAULT_CAPACITY
from .protection import GRANT_CAPACITY as GRANT_CAPACITY
from .protection import GrantDirection as GrantDirection
from .protection import ProtectionCommand as ProtectionCommand
from .protection import ProtectionStatus as ProtectionStatus
from .ring import RING_BYTES_MAX as RING_BYTES_MAX
from .ring import RING_ENABLE as RING_ENABLE
from .ring import RING_SIZE_MAX as RING_SIZE_MAX
from .ring import RING_SIZE_MIN as RING_SIZE_MIN
from .ring import RingDescriptor as RingDescriptor
from .ring import RingFlag as RingFlag
from .ring import RingStatus as RingStatus
from .witness import MTRR_FIXED_NAMES as MTRR_FIXED_NAMES
from .witness import MTRR_MAX as MTRR_MAX
from .witness import WITNESS_MAX_PAGES as WITNESS_MAX_PAGES
from .witness import WITNESS_RUN_MAX as WITNESS_RUN_MAX
from .witness import WITNESS_TRIGGER as WITNESS_TRIGGER
from .witness import MemoryType as MemoryType
from .witness import WitnessRun as WitnessRun
from .witness import WitnessStatus as WitnessStatus
