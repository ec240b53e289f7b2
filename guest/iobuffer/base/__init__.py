# SPDX-License-Identifier: Apache-2.0
"""The values, protocols and records that everything above shares; no call of the kernel."""
