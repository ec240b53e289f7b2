# SPDX-License-Identifier: Apache-2.0
"""A mapping that failed is given to the device."""
