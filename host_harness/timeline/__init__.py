# SPDX-License-Identifier: Apache-2.0
"""One timeline of a run: what the driver, the devices and the tests did, in one clock."""
