# SPDX-License-Identifier: Apache-2.0
"""Judges a test by the device's trace: evidence, claims, refusals, and the ledger of promises."""
