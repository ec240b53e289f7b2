# SPDX-License-Identifier: Apache-2.0
"""IODMACommand: descriptors cut to the limits of one DMA engine."""
