# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m dma_rehearsal.host_harness``."""
