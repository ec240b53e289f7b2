# SPDX-License-Identifier: Apache-2.0
"""The harness's own process: errors and statuses, children, deadlines, output for people."""
