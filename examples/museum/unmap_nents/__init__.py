# SPDX-License-Identifier: Apache-2.0
"""A list is unmapped with the number that the map returned."""
