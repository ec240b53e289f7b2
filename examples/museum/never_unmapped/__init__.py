# SPDX-License-Identifier: Apache-2.0
"""The receive path maps each buffer and unmaps none."""
