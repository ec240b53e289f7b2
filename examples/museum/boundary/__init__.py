# SPDX-License-Identifier: Apache-2.0
"""A transfer crosses a boundary of the device."""
