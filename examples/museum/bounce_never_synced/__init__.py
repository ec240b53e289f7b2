# SPDX-License-Identifier: Apache-2.0
"""A board with bounce buffers shows a missing sync."""
