# SPDX-License-Identifier: Apache-2.0
"""IOKit's flags beside the creation options: prepare, complete, map, purge, maintain, return."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class PrepareFlags(IntFlag):
    """Flags of ``prepare``, beside its direction."""

    kIODirectionPrepareToPhys32 = 0x4
    kIODirectionPrepareNoFault = 0x8
    kIODirectionPrepareNoZeroFill = 0x10
    kIODirectionPrepareNonCoherent = 0x20


class CompleteFlags(IntFlag):
    """Flags of ``complete``, beside its direction; NonCoherent has the value that it has there."""

    kIODirectionPrepareNonCoherent = 0x20
    kIODirectionCompleteWithError = 0x40
    kIODirectionCompleteWithDataValid = 0x80


class MapOptions(IntFlag):
    """Options of ``createMappingInTask``; the cache field is the creation options' own."""

    kIOMapAnywhere = 0x1
    kIOMapReadOnly = 0x1000
    kIOMemoryMapCopyOnWrite = 0x20000
    kIOMapStatic = 0x0100_0000
    kIOMapReference = 0x0200_0000
    kIOMapUnique = 0x0400_0000
    kIOMapPrefault = 0x1000_0000
    kIOMapOverwrite = 0x2000_0000
    kIOMapGuardedSmall = 0x4000_0000
    kIOMapGuardedLarge = 0x8000_0000


class PurgeableState(IntEnum):
    """States of ``setPurgeable``. KeepCurrent changes nothing."""

    kIOMemoryPurgeableKeepCurrent = 1
    kIOMemoryPurgeableNonVolatile = 2
    kIOMemoryPurgeableVolatile = 3
    kIOMemoryPurgeableEmpty = 4


class MemoryOperation(IntEnum):
    """Operations of ``performOperation``."""

    kIOMemoryIncoherentIOFlush = 1
    kIOMemoryIncoherentIOStore = 2


kIODirectionPrepareToPhys32: Final = PrepareFlags.kIODirectionPrepareToPhys32
kIODirectionPrepareNoFault: Final = PrepareFlags.kIODirectionPrepareNoFault
kIODirectionPrepareNoZeroFill: Final = PrepareFlags.kIODirectionPrepareNoZeroFill
kIODirectionPrepareNonCoherent: Final = PrepareFlags.kIODirectionPrepareNonCoherent
kIODirectionCompleteWithError: Final = CompleteFlags.kIODirectionCompleteWithError
kIODirectionCompleteWithDataValid: Final = CompleteFlags.kIODirectionCompleteWithDataValid
kIOMapAnywhere: Final = MapOptions.kIOMapAnywhere
kIOMapReadOnly: Final = MapOptions.kIOMapReadOnly
kIOMemoryMapCopyOnWrite: Final = MapOptions.kIOMemoryMapCopyOnWrite
kIOMapStatic: Final = MapOptions.kIOMapStatic
kIOMapReference: Final = MapOptions.kIOMapReference
kIOMapUnique: Final = MapOptions.kIOMapUnique
kIOMapPrefault: Final = MapOptions.kIOMapPrefault
kIOMapOverwrite: Final = MapOptions.kIOMapOverwrite
kIOMapGuardedSmall: Final = MapOptions.kIOMapGuardedSmall
kIOMapGuardedLarge: Final = MapOptions.kIOMapGuardedLarge
kIOMemoryPurgeableKeepCurrent: Final = PurgeableState.kIOMemoryPurgeableKeepCurrent
kIOMemoryPurgeableNonVolatile: Final = PurgeableState.kIOMemoryPurgeableNonVolatile
kIOMemoryPurgeableVolatile: Final = PurgeableState.kIOMemoryPurgeableVolatile
kIOMemoryPurgeableEmpty: Final = PurgeableState.kIOMemoryPurgeableEmpty
kIOMemoryIncoherentIOFlush: Final = MemoryOperation.kIOMemoryIncoherentIOFlush
kIOMemoryIncoherentIOStore: Final = MemoryOperation.kIOMemoryIncoherentIOStore
