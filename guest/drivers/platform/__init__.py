# SPDX-License-Identifier: Apache-2.0
"""The platform device from user space: protection unit, cache model, witness, request log."""
