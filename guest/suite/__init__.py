# SPDX-License-Identifier: Apache-2.0
"""The DMA checks that run in the guest: test files alone."""
