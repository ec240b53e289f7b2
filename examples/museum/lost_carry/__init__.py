# SPDX-License-Identifier: Apache-2.0
"""The carry is lost between two address registers."""
