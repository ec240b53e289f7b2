# SPDX-License-Identifier: Apache-2.0
"""The device reads a buffer that was mapped for it to write."""
