# SPDX-License-Identifier: Apache-2.0
"""A streaming mapping is taken for coherent memory."""
