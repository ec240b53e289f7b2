# SPDX-License-Identifier: Apache-2.0
"""Received bytes are read without a sync."""
