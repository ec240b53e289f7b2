# SPDX-License-Identifier: Apache-2.0
"""The sync is of another part than the data."""
