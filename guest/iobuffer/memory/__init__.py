# SPDX-License-Identifier: Apache-2.0
"""The memory behind buffers: pools, carve-outs, pinned pages, and the `Platform`."""
