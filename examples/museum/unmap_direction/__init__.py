# SPDX-License-Identifier: Apache-2.0
"""Map and unmap name different directions."""
