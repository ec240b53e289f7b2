# SPDX-License-Identifier: Apache-2.0
"""The driver loops over the entries that it gave, not those that it got."""
