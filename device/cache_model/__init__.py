# SPDX-License-Identifier: Apache-2.0
"""A deterministic model of DMA on a board without coherent I/O. It does no I/O itself.

A *snooped* access sees G, guest RAM as the CPU sees it; a *no-snoop* access sees D, the DRAM image
that the model keeps of tracked write-back and write-through lines. ``CacheModel`` has the
operations, ``rules`` what each does to a line, ``faults`` what breaks one rule.
"""
