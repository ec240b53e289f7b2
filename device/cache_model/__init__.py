# SPDX-License-Identifier: Apache-2.0
"""What a board without coherent I/O does to DMA, as a deterministic model without I/O.

A *snooped* access sees G, guest RAM as the CPU sees it; a *no-snoop* access sees D, the DRAM image
that the model keeps of tracked write-back and write-through lines. ``CacheModel`` has the
operations, ``rules`` what each does to a line, ``faults`` what breaks one rule.
"""
