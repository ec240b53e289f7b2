# SPDX-License-Identifier: Apache-2.0
"""A buffer is unmapped twice."""
