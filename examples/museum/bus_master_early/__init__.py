# SPDX-License-Identifier: Apache-2.0
"""Bus mastering is on before the device is reset."""
