# SPDX-License-Identifier: Apache-2.0
"""The host's side: makes the environment, runs the VMs, collects the verdict."""
