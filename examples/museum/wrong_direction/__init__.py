# SPDX-License-Identifier: Apache-2.0
"""Receive buffers are mapped for the wrong direction."""
