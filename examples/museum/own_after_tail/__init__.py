# SPDX-License-Identifier: Apache-2.0
"""The descriptor is given away after the doorbell."""
