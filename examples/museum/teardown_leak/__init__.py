# SPDX-License-Identifier: Apache-2.0
"""Buffers in flight are freed without being unmapped."""
