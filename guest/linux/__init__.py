# SPDX-License-Identifier: Apache-2.0
"""Linux's interfaces in the guest: command line, modules, CPUs, memory types, page frames, swap."""
