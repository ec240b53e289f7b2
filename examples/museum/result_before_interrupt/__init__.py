# SPDX-License-Identifier: Apache-2.0
"""The result is read before the device says that it is there."""
