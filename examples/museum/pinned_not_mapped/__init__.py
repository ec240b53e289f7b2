# SPDX-License-Identifier: Apache-2.0
"""Memory that is pinned is taken for mapped."""
