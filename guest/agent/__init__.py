# SPDX-License-Identifier: Apache-2.0
"""The guest's side of a run: the first process, and the agent that serves the host."""
