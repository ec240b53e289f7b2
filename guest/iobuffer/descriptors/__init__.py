# SPDX-License-Identifier: Apache-2.0
"""IOKit's descriptors and mappings, and the memory that processes share."""
