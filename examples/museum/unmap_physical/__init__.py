# SPDX-License-Identifier: Apache-2.0
"""A buffer is unmapped by its physical address."""
