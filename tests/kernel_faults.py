# SPDX-License-Identifier: Apache-2.0
"""Faults that only tests with a guest's kernel notice; others are noticed in process, too."""

from __future__ import annotations

# Huge pages, BARs and read-only pages are in no page tables of the rig.
WITNESS = frozenset({"witness-misplaces-pat", "witness-ignores-mtrrs", "witness-ignores-rights"})
# Their tests pin pages, send messages to the kernel module, or work in several processes.
ALLOCATOR = frozenset(
    {
        *("allocator-segments-shuffled", "allocator-purge-undetected"),
        "allocator-ranges-reversed",
        *("allocator-grants-outlive", "allocator-grants-of-the-dead"),
        *("allocator-kernel-mapping-cut-short", "allocator-strict-ignored"),
        *("allocator-capacity-not-aligned-to", "allocator-mapping-grants"),
        *("allocator-unmap-not-awaited", "allocator-two-owners"),
        *("allocator-withdrawal-failure-hidden", "allocator-child-counts-as-parent"),
    }
)
KERNEL = WITNESS | ALLOCATOR
# Of the other faults, too, only such tests see that these are broken.
PROMISES = frozenset({"random operations"})
