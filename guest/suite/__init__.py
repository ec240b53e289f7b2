# SPDX-License-Identifier: Apache-2.0
"""The DMA checks that run in the guest, and the agent that runs them for the host."""
