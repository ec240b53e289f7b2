# SPDX-License-Identifier: Apache-2.0
"""The host's own look at the guest's page tables. It shares no code with the device's witness."""
