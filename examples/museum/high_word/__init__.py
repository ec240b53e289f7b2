# SPDX-License-Identifier: Apache-2.0
"""The high word of the address is hard-coded to 0."""
