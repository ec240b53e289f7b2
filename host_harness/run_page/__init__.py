# SPDX-License-Identifier: Apache-2.0
"""The page of a run: report.html, one file that shows the verdict and the story of each failure."""
