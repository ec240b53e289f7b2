# SPDX-License-Identifier: Apache-2.0
"""An NVMe driver's PRP list has physical addresses."""
