# SPDX-License-Identifier: Apache-2.0
"""The one import name: ``dma_rehearsal.device``, ``.guest`` and ``.host_harness``.

In a checkout the three are links to the folders at the top; in an installed package they are copies.
"""
