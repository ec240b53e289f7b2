# SPDX-License-Identifier: Apache-2.0
"""The page of the platform: the smallest that an x86-64 processor and its IOMMU map."""

from __future__ import annotations

from typing import Final

PAGE: Final = 4096
"""Bytes. Intel SDM vol. 3A, 4.2; Intel VT-d specification, 3.7."""
