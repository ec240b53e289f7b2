# SPDX-License-Identifier: Apache-2.0
"""A run's result in the formats that other programs read, from one model: `run_result`."""
