# SPDX-License-Identifier: Apache-2.0
"""A run of guest tests: its VMs, pytest's session on the host, the status and the artefacts."""
