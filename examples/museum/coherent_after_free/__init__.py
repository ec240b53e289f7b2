# SPDX-License-Identifier: Apache-2.0
"""The device keeps a ring that was freed."""
