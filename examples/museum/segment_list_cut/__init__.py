# SPDX-License-Identifier: Apache-2.0
"""The segment list is cut at 32 entries."""
