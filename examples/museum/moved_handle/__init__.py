# SPDX-License-Identifier: Apache-2.0
"""The handle moves between map and unmap."""
