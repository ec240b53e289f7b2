# SPDX-License-Identifier: Apache-2.0
"""The host's side of the rig: makes the environment, runs the VM, collects the verdict."""
