# SPDX-License-Identifier: Apache-2.0
"""An error path leaves the first mapping."""
