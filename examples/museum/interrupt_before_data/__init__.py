# SPDX-License-Identifier: Apache-2.0
"""The interrupt is taken for the data."""
