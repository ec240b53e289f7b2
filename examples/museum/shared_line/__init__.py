# SPDX-License-Identifier: Apache-2.0
"""A counter lies in the cache line of a receive buffer."""
