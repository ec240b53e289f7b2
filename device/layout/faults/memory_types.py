# SPDX-License-Identifier: Apache-2.0
"""The faults of what the guest tells of its CPUs' PAT and MTRRs."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Component, Fault

MEMORY_TYPES = (
    Fault(
        "guest-tells-wrong-pat",
        Component.MSR_READER,
        "the guest tells entries 3 and 7 of IA32_PAT swapped",
        ("kIOMapDefaultCache", "kIOMapInhibitCache"),
        message="the guest told IA32_PAT",
        tests=("test_witnessed.py", "test_cache_modes.py"),
    ),
    Fault(
        "guest-tells-wrong-mtrr",
        Component.MSR_READER,
        "the guest tells the first variable-range MTRR as not valid",
        ("kIOMapWriteThruCache",),
        message="the guest told IA32_MTRR_PHYSMASK0",
        tests=("test_witnessed.py",),
    ),
)
